"""Old import paths: they warn, and give what took their place."""

import importlib
import importlib.util
import sys

import numpy as np
import pandas as pd
import pytest

import clip_jax
from clip_jax._moved import MOVED


@pytest.mark.parametrize(("old", "new"), sorted(MOVED.items()))
def test_moved_new_paths_exist_and_old_ones_do_not(old, new):
    assert importlib.util.find_spec(f"clip_jax.{new}") is not None
    room, _, name = f"clip_jax.{old}".rpartition(".")
    folder = importlib.util.find_spec(room)
    assert folder is None or not any(
        importlib.machinery.PathFinder.find_spec(f"{room}.{name}", [place])
        for place in folder.submodule_search_locations or ()
    )


def test_moved_module_warns_and_is_the_new_one():
    sys.modules.pop("clip_jax.places", None)
    with pytest.warns(DeprecationWarning, match=r"clip_jax\.places is clip_jax\.storage\.paths now"):
        old = importlib.import_module("clip_jax.places")
    new = importlib.import_module("clip_jax.storage.paths")
    assert old is new
    assert new.__spec__.name == "clip_jax.storage.paths"


def test_moved_module_that_became_a_package_warns():
    with pytest.warns(DeprecationWarning, match=r"clip_jax\.scaling\.fit_law\.fit_law"):
        from clip_jax.scaling.fit import fit_law
    with pytest.warns(DeprecationWarning, match=r"clip_jax\.errors\.UserError"):
        from clip_jax.config import UserError
    assert fit_law is importlib.import_module("clip_jax.scaling.fit_law").fit_law
    assert UserError is clip_jax.UserError


def test_moved_package_gives_only_its_own_modules():
    from clip_jax.scaling.fit import solver

    assert solver.__name__ == "clip_jax.scaling.fit.solver"
    with pytest.raises(ImportError):
        from clip_jax.scaling.fit import nonsense  # noqa: F401
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("clip_jax.nonsense")


def test_moved_class_warns_under_its_old_name():
    from clip_jax.train import loop

    with pytest.warns(DeprecationWarning, match=r"clip_jax\.train\.loop\.InitState"):
        old = loop.Start
    assert old is loop.InitState
    with pytest.raises(AttributeError, match="nonsense"):
        loop.nonsense  # noqa: B018


def test_moved_rows_of_gives_the_parts_of_read_rows_and_warns():
    from clip_jax.scaling.any_table.options import TableFit
    from clip_jax.scaling.laws import law_named

    table = pd.DataFrame({"flops": [1e9, 1e10, np.nan, 1e12], "error": [0.9, 0.7, 0.6, 0.5]})
    sys.modules.pop("clip_jax.scaling.tablefit", None)
    with pytest.warns(
        DeprecationWarning, match=r"clip_jax\.scaling\.tablefit is clip_jax\.scaling\.any_table\.fit now"
    ):
        old = importlib.import_module("clip_jax.scaling.tablefit")
    with pytest.warns(DeprecationWarning, match=r"rows_of is clip_jax\.scaling\.any_table\.rows\.rows_of now"):
        rows_of = old.rows_of
    columns, y, index, treatment = rows_of(table, TableFit(), law_named("power"))
    assert columns["flops"].tolist() == [1e9, 1e10, 1e12]
    assert y.tolist() == [0.9, 0.7, 0.5]
    assert index.tolist() == [0, 1, 3]
    assert treatment == ["1 rows left out, the first is row 2: flops is missing"]


def test_moved_module_without_submodules_lacks_other_names():
    from clip_jax.sweep import driver

    assert not hasattr(driver, "nonsense")
