"""Names in the package say what they hold: a few words that could stand for anything are refused."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "clip_jax"
REFUSED = {"found", "said", "told", "own", "there", "here", "mine", "given", "why", "theirs", "ours"}


def names_given(tree):
    """Yield (line, name) of every variable, argument, field and function that a module names itself.

    Keys of records (TypedDict) keep the names that stored files have.
    """
    records = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and "TypedDict" in map(ast.unparse, n.bases)]
    keys = {id(line.target) for record in records for line in record.body if isinstance(line, ast.AnnAssign)}
    for node in ast.walk(tree):
        if id(node) in keys:
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_name_could_stand_for_anything(path):
    refused = [f"{path}:{line}: {name}" for line, name in names_given(ast.parse(path.read_text())) if name in REFUSED]
    assert not refused, "\n".join(refused)


def public_functions(tree):
    """Yield the functions and methods of a module whose names have no leading underscore."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node)
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_public_signature_says_any(path):
    for function in public_functions(ast.parse(path.read_text())):
        a = function.args
        every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
        annotations = [arg.annotation for arg in every] + [function.returns]
        named = {node.id for hint in annotations if hint for node in ast.walk(hint) if isinstance(node, ast.Name)}
        assert "Any" not in named or function.name == "parse_json", function.name  # parsed JSON has no type of its own
