"""Types of nested containers of arrays."""

from __future__ import annotations

from collections.abc import Mapping

PyTree = object  # any nesting of containers with arrays at its leaves
Params = Mapping[str, object]  # nested dictionaries of a model's arrays, by name of module and parameter
