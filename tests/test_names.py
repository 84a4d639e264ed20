"""Names in the package say what they hold: a few words that could stand for anything are refused."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "clip_jax"
OUTSIDE = sorted(path for room in ("tests", "benchmarks") for path in (PACKAGE.parent / room).rglob("*.py"))
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


PRIVATE_USED = {
    "_moved": "the table of old import paths is what its test is about",
    "_cache_size": "of jax: how often a function was compiled, which nothing public tells",
    "_actions": "of argparse: the commands of a parser",
    "_base_executable": "of sys: the Python that made this environment",
}


def private_names(tree):
    """Yield (line, name) of what a module uses of others under a name that begins with one underscore."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("clip_jax"):
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
            names = [node.attr]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("attr"):  # setattr, getattr, delattr
            texts = [a.value for a in node.args[:2] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            names = [part for text in texts if not text.startswith("jax.") for part in text.split(".")]
        yield from ((node.lineno, name) for name in names if name.startswith("_") and not name.startswith("__"))


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_nothing_outside_a_module_uses_its_private_names(path):
    used = [
        f"{path}:{line}: {name}"
        for line, name in private_names(ast.parse(path.read_text()))
        if name not in PRIVATE_USED
    ]
    assert not used, "\n".join(used)
