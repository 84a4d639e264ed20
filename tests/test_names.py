"""Names say what they hold: words that could stand for anything are refused, and so are private names of others."""

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "clip_jax").rglob("*.py"))
OUTSIDE = sorted(path for room in ("tests", "benchmarks") for path in (ROOT / room).rglob("*.py"))
REFUSED = {"found", "said", "told", "own", "there", "here", "mine", "given", "why", "theirs", "ours"}
STORED = {"DecoderBlock.own": "a part of the path of parameters in checkpoints"}
PRIVATE = {
    "_moved": "the table of old import paths is what its test is about",
    "_cache_size": "of jax: how often a function was compiled, which nothing public tells",
    "_actions": "of argparse: the commands of a parser",
    "_base_executable": "of sys: the Python that made this environment",
}


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text())


def names_given(tree):
    """Yield (line, name) of every variable, argument, attribute, field and function that a module names itself.

    Keys of records (TypedDict) keep the names that stored files have.
    """
    classes = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
    records = [n for n in classes if "TypedDict" in map(ast.unparse, n.bases)]
    keys = {id(line.target) for record in records for line in record.body if isinstance(line, ast.AnnAssign)}
    for kind in classes:
        stored = {name.partition(".")[2] for name in STORED if name.startswith(f"{kind.name}.")}
        keys |= {id(n) for n in ast.walk(kind) if stored and isinstance(n, ast.Attribute) and n.attr in stored}
    for node in ast.walk(tree):
        if id(node) in keys:
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.alias):
            yield node.lineno, node.asname
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler | ast.MatchAs):
            yield node.lineno, node.name


def test_no_name_could_stand_for_anything():
    refused = [
        f"{path}:{line}: {name}"
        for path in (*PACKAGE, *OUTSIDE)
        for line, name in names_given(tree_of(path))
        if name in REFUSED
    ]
    assert not refused, "\n".join(refused)


def public_functions(tree):
    """Yield the functions and methods of a module whose names have no leading underscore."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node)
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def test_no_public_signature_says_any():
    untyped = []
    for path in PACKAGE:
        for function in public_functions(tree_of(path)):
            a = function.args
            every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
            annotations = [arg.annotation for arg in every] + [function.returns]
            named = {node.id for hint in annotations if hint for node in ast.walk(hint) if isinstance(node, ast.Name)}
            if "Any" in named and function.name != "parse_json":  # parsed JSON has no type of its own
                untyped.append(f"{path}:{function.lineno}: {function.name}")
    assert not untyped, "\n".join(untyped)


def private_imports(tree):
    """Yield (line, name) of what a module imports from the package under a name that begins with one underscore."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("clip_jax"):
            yield from ((node.lineno, name) for name in (*node.module.split("."), *(a.name for a in node.names)))


def attributes_of_others(tree):
    """Yield (line, name) of the attributes that a module uses of anything but ``self`` and ``cls``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr[0] == "_" and ast.unparse(node.value) not in ("self", "cls"):
            yield node.lineno, node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("attr"):  # setattr, getattr, delattr
            texts = [a.value for a in node.args[:2] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            parts = [part for text in texts if not text.startswith("jax.") for part in text.split(".")]
            yield from ((node.lineno, part) for part in parts)


def test_private_names_are_used_in_their_module_alone():
    used = [(path, *use) for path in (*PACKAGE, *OUTSIDE) for use in private_imports(tree_of(path))]
    used += [(path, *use) for path in OUTSIDE for use in attributes_of_others(tree_of(path))]
    refused = [
        f"{path}:{line}: {name}"
        for path, line, name in used
        if name.startswith("_") and not name.startswith("__") and name not in PRIVATE
    ]
    assert not refused, "\n".join(refused)
