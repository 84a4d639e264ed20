"""One change to a file, of the kind that its name calls for; by a random generator, so that it can be made again."""

from __future__ import annotations

import copy
import io
import json
import random
import tarfile
import zlib
from typing import Any

Files = dict[str, bytes]


def nasty_values(root: str) -> list[Any]:
    """What JSON can hold and nobody expects; ``root`` is where nothing may be written."""
    return [
        None, True, False, 0, -1, 1, 2**31, 2**63, 10**19, 10**400, 1e308, -1e308, 1e-320, float("nan"), float("inf"),
        "", "a", "\0", "\ud800", "../../../escaped/x", f"{root}/escaped/x", "/dev/zero", "x" * 5000, "9" * 5000, "null",
        [], {}, [[]], [None], {"a": {}}, "\n", "-", "é", "{0}", "%s", "<b>", 0.1,
    ]  # fmt: skip


TOKENS = [
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"[" * 50_000, b'{"a":' * 20_000, b"9" * 400, b"1e999", b"NaN", b"-", b'"',
    b",", b";", b"\t", b"\r\n", b"\n\n", b"../../escaped/x", b"\xf0\x9f\x98\x80", b"\xe2\x80\xa8", b"''", b"=", b"#",
    b"\\", b"A" * 200_000,
]  # fmt: skip


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """One change to bytes."""
    at, out = rng.randrange(len(data) + 1), bytearray(data)
    kind = rng.randrange(8)
    if kind == 0 and out:
        out[at % len(out)] ^= 1 << rng.randrange(8)
    elif kind == 1 and out:
        out[at % len(out)] = rng.choice((0, 1, 127, 128, 255))
    elif kind == 2:
        del out[at : at + rng.choice((1, 4, 64, 512, 4096))]
    elif kind == 3:
        out[at:at] = out[at : at + rng.choice((1, 16, 512, 4096))] * rng.choice((1, 2, 50))
    elif kind == 4:
        out[at:at] = rng.choice(TOKENS)
    elif kind == 5:
        del out[at:]
    elif kind == 6:
        out[at : at + 8] = rng.randbytes(rng.choice((1, 2, 4, 8)))
    else:
        for _ in range(rng.randrange(1, 30)):
            if out:
                out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def _places(value: Any, into: list[tuple[Any, Any]]) -> None:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        into.append((value, key))
        _places(inner, into)


def mutate_json(rng: random.Random, data: bytes, root: str) -> bytes:
    """One change to the structure of JSON (or to one of its lines); of anything else, to its bytes."""
    lines = data.split(b"\n")
    which = (
        rng.randrange(len(lines)) if len(lines) > 2 and lines[0].startswith(b"{") and lines[0].endswith(b"}") else None
    )
    try:
        value = json.loads(data if which is None else lines[which])
    except (ValueError, RecursionError):
        return mutate_bytes(rng, data)
    places: list[tuple[Any, Any]] = []
    _places(value, places)
    nasty = rng.choice(nasty_values(root))
    if not places or rng.random() < 0.03:
        value = nasty
    else:
        holder, key = rng.choice(places)
        kind = rng.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
        elif kind == 2:
            other_holder, other_key = rng.choice(places)
            holder[key] = (
                copy.deepcopy(other_holder[other_key])
                if other_key in other_holder or (isinstance(other_holder, list) and other_key < len(other_holder))
                else nasty
            )
        else:
            holder[key] = nasty
    made = json.dumps(value).encode()
    if which is None:
        return made
    lines[which] = made
    return b"\n".join(lines)


def mutate_tgz(rng: random.Random, data: bytes, root: str) -> bytes:
    """One change to a member of a compressed tar, or to the archive's own bytes."""
    if rng.random() < 0.2:
        return mutate_bytes(rng, data)
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
            members = [(m.name, f.read() if (f := tar.extractfile(m)) else b"") for m in tar]
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError):
        return mutate_bytes(rng, data)
    which = rng.randrange(len(members)) if members else 0
    if members:
        name, content = members[which]
        members[which] = (name, mutate(rng, "a.json", content, root)) if rng.random() < 0.9 else (f"../{name}", content)
    return tgz(dict(members))


def mutate(rng: random.Random, name: str, data: bytes, root: str) -> bytes:
    """One change to a file, of the kind that its name calls for."""
    if name.endswith(".tgz"):
        return mutate_tgz(rng, data, root)
    if name.endswith((".json", ".jsonl", ".lock")) and rng.random() < 0.75:
        return mutate_json(rng, data, root)
    return mutate_bytes(rng, data)


def tgz(contents: Files) -> bytes:
    """A compressed tar of these files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()
