"""Docstrings of the public names: what each argument of an exported function or method means is written down."""

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def module_file(name):
    """Return the file of a module of the package, or None."""
    path = ROOT.joinpath(*name.split("."))
    return next((p for p in (path / "__init__.py", path.with_suffix(".py")) if p.is_file()), None)


@functools.cache
def definitions(name):
    """Return what a module defines at its top, {name: function, class, or (module, name) that it imports}."""
    names = {}
    for node in ast.walk(ast.parse(module_file(name).read_text())):
        if isinstance(node, ast.ImportFrom) and module_file(node.module or ""):
            names |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    for node in ast.parse(module_file(name).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = node
    return names


def resolved(module, name):
    """Return (module, function or class) of a name as a module sees it; None for anything else."""
    node = definitions(module).get(name)
    return resolved(*node) if isinstance(node, tuple) else node and (module, node)


def exported():
    """Return {module.name: node} of the functions and classes that some ``__all__`` lists, where they are defined."""
    nodes = {}
    for path in sorted((ROOT / "clip_jax").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        lists = {
            target.id: line.value
            for line in ast.parse(path.read_text()).body
            if isinstance(line, ast.Assign)
            for target in line.targets
            if isinstance(target, ast.Name)
        }
        if "__all__" in lists:
            keys = lists["__all__"] if isinstance(lists["__all__"], ast.List) else lists["_PUBLIC"]
            for name in ast.literal_eval(keys):
                if origin := resolved(module, name):
                    nodes[f"{origin[0]}.{name}"] = origin
    return nodes


EXPORTED = exported()


def arguments(function, method=False):
    """Return the names of a function's arguments, without ``self``."""
    a = function.args
    names = [arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg)))]
    static = any(ast.unparse(d) == "staticmethod" for d in function.decorator_list)
    return [name for name in names[method and not static :] if not name.startswith("_")]


def documented(node):
    """Return the names that the sections ``Args:`` and ``Attributes:`` of a docstring list."""
    sections = re.findall(r"^(?:Args|Attributes):\n((?:[ ]+.*\n?|\n)*)", ast.get_docstring(node) or "", re.M)
    heads = re.findall(r"(?:^  |[.;] )((?:\*{0,2}\w+, )*\*{0,2}\w+):", "\n".join(sections), re.M)
    return {name.strip("* ") for head in heads for name in head.split(",")}


def inherits(module, cls, method):
    """Return whether a base class documents the arguments of this method."""
    for base in cls.bases:
        name = ast.unparse(base).partition("[")[0]
        if origin := resolved(module, name):
            for other in origin[1].body:
                if isinstance(other, ast.FunctionDef) and other.name == method.name:
                    return set(arguments(other, method=True)) <= documented(other)
            if inherits(*origin, method):
                return True
    return False


@pytest.mark.parametrize("name", EXPORTED)
def test_every_argument_of_an_exported_name_is_documented(name):
    module, node = EXPORTED[name]
    missing = []
    if isinstance(node, ast.FunctionDef):
        missing += [f"{name}: {a}" for a in arguments(node) if a not in documented(node)]
    else:
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and (method.name == "__init__" or not method.name.startswith("_")):
                described = documented(method) | (documented(node) if method.name == "__init__" else set())
                absent = [a for a in arguments(method, method=True) if a not in described]
                if absent and not inherits(module, node, method):
                    missing += [f"{name}.{method.name}: {a}" for a in absent]
    assert not missing, "\n".join(missing)
