"""The programs of benchmarks/ ask the package for names that it has, in functions that nobody called too."""

import ast
import importlib
from pathlib import Path

import pytest

PROGRAMS = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_names_imported_from_the_package_exist(program):
    asked = [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(program.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "clip_jax"
        for alias in node.names
    ]
    missing = []
    for module, name in asked:
        if not hasattr(importlib.import_module(module), name):
            try:
                importlib.import_module(f"{module}.{name}")
            except ModuleNotFoundError:
                missing.append(f"{module}.{name}")
    assert not missing
