"""Types that several packages share. Importing this module loads neither jax nor numpy."""

from __future__ import annotations

from typing import Any

JsonObject = dict[str, Any]  # what a JSON object is parsed to
PyTree = object  # any nesting of containers with arrays at its leaves
Params = dict[str, Any]  # parameters nested by module; leaves are arrays, or what stands for them
