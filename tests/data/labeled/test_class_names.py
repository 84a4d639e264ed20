"""Names of classes: read, and paired by name."""

import pytest

from clip_jax.data.labeled.class_names import class_numbers, pair_names, read_lines, read_names

from ...user_errors import raises_user_error


@pytest.mark.parametrize(
    ("text", "names"),
    [("cat\ndog\n", ("cat", "dog")), ("cat\n\ndog\n", ("cat", "", "dog")), ("cat\r\n \r\ndog", ("cat", "", "dog")),
     ("\ufeffcat\ndog", ("cat", "dog")), ("a\u2028b\nc\x0bd\ne\x85f\n", ("a\u2028b", "c\x0bd", "e\x85f")), ("", ()),
     ("cat\n\n", ("cat", ""))],
)  # fmt: skip
def test_read_names_line_number_is_the_class(tmp_path, text, names):
    path = tmp_path / "classnames.txt"
    path.write_bytes(text.encode())
    assert read_names(path) == names
    assert read_lines(path) == tuple(n for n in names if n)
    assert read_names(tmp_path / "none.txt") == ()


def test_read_names_of_another_encoding_is_one_line(tmp_path):
    path = tmp_path / "classnames.txt"
    path.write_bytes("café\n".encode("latin-1"))
    with raises_user_error(field=str(path), reason="UTF-8"):
        read_names(path)


def test_pair_names_ignores_case_and_separators():
    published = ("forest", "sea or lake", "Ram C/V Van", "stop")
    assert pair_names(("STOP", "Ram C-V Van", "sea_or_lake", "Forest "), published, "x") == [3, 2, 1, 0]
    assert pair_names(("a", "b"), ("b", "a"), "x", by="place") == [0, 1]
    assert pair_names(("AnnualCrop", "River"), ("river", "annual crop land"), "x",
                      labels=("River", "AnnualCrop")) == [1, 0]  # fmt: skip
    assert pair_names(("crane", "cat", "crane"), ("cat", "crane", "crane"), "x") == [1, 0, 2]
    assert pair_names(("", "near"), ("near", ""), "x") == [1, 0]
    assert pair_names(("a-b", "ab"), ("ab", "a b"), "x", labels=("ab", "a-b")) == [1, 0]


def test_pair_names_of_numbers_sorts_them_as_numbers():
    names = [f"thing {i}" for i in range(12)]
    numbers = sorted(map(str, range(12)))
    assert pair_names(numbers, names, "x") == [int(n) for n in numbers]
    assert pair_names([f"{i:05d}" for i in range(12)], names, "x") == list(range(12))
    assert pair_names([str(i + 1) for i in range(12)], names, "x") == list(range(12))
    assert pair_names(("10", "3"), ("3", "10"), "x") == [1, 0]  # names after all
    for other in (("0", "2"), ("1", "3"), ("²", "1"), ()):
        assert class_numbers(other) is None
    with raises_user_error(source="x", field="pair", reason="'ten'"):  # some are names, some are not
        pair_names(("0", "1", "2"), ("2", "1", "ten"), "x")


@pytest.mark.parametrize(
    ("classes", "published", "unmatched"),
    [(("a", "b", "x"), ("a", "b", "c"), ("x",)), (("a", "b"), ("a", "b", "c"), ("c",)),
     (("2", "5"), ("c", "d"), ("2", "5")), (("a b", "ab"), ("a-b", "c"), ("a b", "ab"))],
)  # fmt: skip
def test_pair_names_lists_unmatched_names(classes, published, unmatched):
    with raises_user_error(source="sets/x", field="pair", value="name", reason=unmatched[0]):
        pair_names(classes, published, "sets/x")
    with raises_user_error(source="x", field="pair", value="place"):
        pair_names(("a",), ("a", "b"), "x", by="place")
