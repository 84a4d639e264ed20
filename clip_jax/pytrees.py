"""Types of nested containers of arrays."""

from __future__ import annotations

from collections.abc import Mapping

PyTree = object  # any nesting of containers with arrays at its leaves
Params = Mapping[str, object]  # nested by module; leaves are arrays, or what stands for them
