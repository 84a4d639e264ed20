"""Names in the package say what they hold: a few words that could stand for anything are refused."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "clip_jax"
REFUSED = {"found", "said", "told", "own", "there", "here", "mine", "given", "why", "theirs", "ours"}


def names_given(tree):
    """(line, name) of every variable, argument, field and function that a module names itself."""
    for node in ast.walk(tree):
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
