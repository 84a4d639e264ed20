"""Files of tables: each dialect is read rightly or refused in one line that names the place."""

import gzip
import re

import numpy as np
import pytest

from clip_jax.errors import UserError
from clip_jax.scaling.data.runs_table import read_table
from clip_jax.scaling.data.table_files import is_table_name

from ...user_errors import raises_user_error

PLAIN = "run_id,flops,loss\n01,1e17,3.4665\n02,2.5e17,3.25\n"
OBJECTS = ['{"run_id": "01", "flops": 1e17, "loss": 3.4665}', '{"run_id": "02", "flops": 2.5e17, "loss": 3.25}']


@pytest.fixture
def write(tmp_path):
    def to(text, name="t.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return to


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", PLAIN),
        ("T.CSV", PLAIN.replace(",", "\t")),
        ("t.tsv", PLAIN.replace(",", "\t")),
        ("bom.csv", b"\xef\xbb\xbf" + PLAIN.encode()),
        ("utf16.txt", PLAIN.replace(",", "\t").encode("utf-16")),
        ("crlf.csv", PLAIN.replace("\n", "\r\n")),
        ("cr.csv", PLAIN.replace("\n", "\r")),
        ("blank.csv", PLAIN.replace("\n", "\n\n")),
        ("spaces.csv", PLAIN.replace("flops,loss", " flops , loss")),
        ("semicolon.csv", PLAIN.replace(",", ";")),
        ("comma.csv", PLAIN.replace(",", ";").replace(".", ",")),
        ("tab_comma.tsv", PLAIN.replace(",", "\t").replace(".", ",")),
        ("all_trailing.csv", PLAIN.replace("\n", ",\n")),
        ("rows_trailing.csv", PLAIN.replace("65\n", "65,,\n")),
        ("z.csv.gz", gzip.compress(PLAIN.encode(), mtime=0)),
        ("t.jsonl", "\n".join(OBJECTS)),
        ("t.JSON", f"[{','.join(OBJECTS)}]"),
    ],
)  # fmt: skip
def test_read_table_dialect_gives_the_same_rows(write, name, text):
    df = read_table(write(text, name))
    assert list(df.columns) == ["run_id", "flops", "loss"]
    assert df["run_id"].tolist() == ["01", "02"]
    np.testing.assert_array_equal(df["flops"], [1e17, 2.5e17])
    np.testing.assert_array_equal(df["loss"], [3.4665, 3.25])
    assert is_table_name(name)


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("flops,loss\n1e17,3.1,0.1\n2e17,3.0,0.2\n", "line 2", None),  # pandas would shift the columns
        ("flops,loss\n1e17,3.1\n\n2e17,3.0,0.2\n", "line 4", None),
        ("flops,loss,note\n1e17,3.1,a\n2e17,3.0\n", "line 3", None),
        ("flops,loss\n1e17,3,1\n2e17,3,0\n", "line 2", None),  # a decimal comma between commas
        ('name,flops\n"two\nlines",1\nb\n', "line 4", None),
        ("flops,loss,loss\n1e17,3.1,3.2\n", "loss", None),
        ("flops, loss,loss\n1e17,3.1,3.2\n", "loss", None),
        ("flops,loss\n1e17,3.1\n1" + 400 * "0" + ",3.0\n", "flops", "1" + 400 * "0"),
        ("flops,loss\n1e17,3.1\n1e400,3.0\n", "flops", "1e400"),
        ("flops,loss\n1e17,3.1\n-1" + 400 * "0" + ".5,3.0\n", "flops", "-1" + 400 * "0" + ".5"),
        ("a;b,c;d\n1;2,3;4\n5;6,7;8\n", "t.csv", None),  # semicolons or commas: both fit
        ("flops;loss;n\n1e17;3,5;1.234\n2e17;3,25;2.345\n", "n", "1.234"),
    ],
)  # fmt: skip
def test_read_table_open_to_two_readings_is_refused(write, text, field, value):
    with raises_user_error(field=re.compile(rf"{re.escape(field)}$")) as caught:
        read_table(write(text))
    assert caught.value.value == value
    assert caught.value.reason
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.jsonl", '{"flops": 1, "loss": 2}\n{"flops": 1' + 400 * "0" + ', "loss": 2}\n'),
        ("t.json", '[{"flops": 1}, {"flops": 1e999}]'),
        ("t.json", '[{"flops": 1}, {"flops": [1, 2]}]'),
        ("t.json", '[{"flops": 1, "flops": 2}]'),
        ("t.json", '{"flops": 1}'),
        ("t.json", "[1, 2]"),
        ("t.json", "[" * 100_000),
        ("t.csv", b"flops\xff\xfe,loss\n1,2\n"),
        ("t.csv.gz", b"not gzip"),
        ("t.csv", 'flops,loss\n1,"2\n'),
    ],
)
def test_read_table_unreadable_file_is_one_line(write, name, text):
    with raises_user_error() as caught:
        read_table(write(text, name))
    assert caught.value.reason


@pytest.mark.parametrize(("row", "hinted"), [("1e17,3,1", True), ("1e17,3.1,0.5", False), ("1e17", False)])
def test_read_table_ragged_row_hints_at_decimal_commas_only_without_points(write, row, hinted):
    with pytest.raises(UserError) as caught:
        read_table(write(f"flops,loss\n{row}\n"))
    assert (caught.value.hint is not None) == hinted


def test_read_table_the_word_inf_is_kept_and_grouped_digits_stay_text(write):
    assert read_table(write("flops,loss\n1,inf\n2,-Infinity\n"))["loss"].tolist() == [np.inf, -np.inf]
    assert read_table(write("flops;loss\n1;1,234\n2;2,345\n"))["loss"].tolist() == ["1,234", "2,345"]
    assert read_table(write("flops,kernel\n1,\"3,5\"\n"))["kernel"].tolist() == ["3,5"]  # fmt: skip


def test_read_table_unnamed_index_column_is_kept(write):
    assert list(read_table(write(",flops\n0,1\n1,2\n")).columns) == ["Unnamed: 0", "flops"]


@pytest.mark.parametrize("name", ["sweep", "runs.old", "gs://bucket/sweep", "csv"])
def test_is_table_name_other_names_are_no_tables(name):
    assert not is_table_name(name)
