"""Old import paths: they warn, and give what took their place."""

import importlib
import importlib.util
import sys

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
