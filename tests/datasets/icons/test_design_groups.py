"""Sets of one design are found by author, prefix, path data and looks; near-duplicates by hash."""

import numpy as np
import pandas as pd
import pytest

from clip_jax.datasets.icons.design_groups import group_by_design, links, near_duplicates


def table(**sets):
    rows = [(s, n, h, d) for s, icons in sets.items() for n, (h, d) in icons.items()]
    return pd.DataFrame(rows, columns=["set", "base", "hash", "digest"]).astype({"hash": "uint64", "digest": "uint64"})


def whys(make_set, rows, *prefixes, **authors):
    sets = [make_set(p, "MIT", {"a": "<g/>"}, author={"name": authors.get(p, p), "url": ""}) for p in prefixes]
    return {(link.first, link.second): link.reason for link in links(sets, rows)}


def icons(start, count, looks):
    return {f"n{i}": (looks + (i << 32), start + i) for i in range(count)}


@pytest.mark.parametrize(("size", "shared", "linked"), [(60, 5, False), (50, 5, True), (40, 4, False)])
def test_links_join_sets_that_share_a_tenth_of_their_paths(make_set, size, shared, linked):
    one, other = icons(0, 90, 0), {f"m{i}": (0, 90 - shared + i) for i in range(size)}
    reasons = whys(make_set, table(one=one, other=other), "one", "other")
    assert (("one", "other") in reasons) == linked


@pytest.mark.parametrize(("names", "bits", "linked"), [(20, 4, True), (20, 5, False), (19, 4, False)])
def test_links_join_sets_whose_common_names_look_alike(make_set, names, bits, linked):
    rows = table(one=icons(0, names, 0), other=icons(1000, names, 2**bits - 1))
    assert (("one", "other") in whys(make_set, rows, "one", "other")) == linked


def test_links_join_sets_by_author_prefix_and_known_forks(make_set):
    rows = table(one={"a": (0, 1)})
    reasons = whys(make_set, rows, "mine", "mine-2", "yours", "feather", "lucide", yours="Acme, Inc", feather="ACME")
    assert reasons[("mine", "mine-2")] == "prefix"
    assert reasons[("feather", "lucide")] == "known"
    assert reasons[("feather", "yours")].startswith("author")
    assert len(reasons) == 3


def test_group_by_design_gives_connected_components(make_set):
    linked = links([make_set(p, "MIT", {"a": "<g/>"}) for p in ("a", "a-b", "feather", "lucide", "z")], table(z={}))
    assert group_by_design(("a", "a-b", "feather", "lucide", "z"), linked) == [
        ("a", "a-b"),
        ("feather", "lucide"),
        ("z",),
    ]


def test_near_duplicates_marks_training_icons():
    held = np.array([0b11111, 0b11111 << 40], np.uint64)
    train = np.array([0, 0b00111, (0b11111 << 40) + 1, 1 << 50, 0b00111], np.uint64)
    assert near_duplicates(train, held, 2).tolist() == [False, True, True, False, True]
    assert near_duplicates(train, held, 1).tolist() == [False, False, True, False, False]
