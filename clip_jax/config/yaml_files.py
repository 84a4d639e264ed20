"""Reading YAML as people mean it: 1e-3 is a number, off and no are texts (the core schema of YAML 1.2)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from clip_jax.errors import UserError, one_line


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the plain scalars of YAML 1.2; PyYAML itself reads those of YAML 1.1."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        first: [(tag, pattern) for tag, pattern in pairs if tag.rpartition(":")[2] in ("null", "merge")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


for _tag, _pattern, _first in (
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", "[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first))


def parse_yaml(text: str, source: Path) -> object:
    """Parse a YAML file of plain values.

    Args:
      text: the YAML text.
      source: the file, as named in the error message.

    Raises:
      UserError: the text is not YAML, or holds what JSON cannot: a loop, or tags of Python objects.
    """
    try:
        return json.loads(json.dumps(yaml.load(text, _Loader)))
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        reason = f"not YAML ({error.problem or error.context}{line})"
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = f"not YAML ({(str(error).splitlines() or [type(error).__name__])[0]})"
    raise UserError(field=source, reason=one_line(reason)) from None
