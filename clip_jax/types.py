"""Types that several packages share. Importing this module loads neither jax nor numpy."""

from __future__ import annotations

from typing import Any

JsonObject = dict[str, Any]  # what a JSON object is parsed to
