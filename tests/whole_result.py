"""A ``result.json`` with every field that it must have, for runs that only pretend to train."""

import json

from clip_jax.train.run_result import REQUIRED

WHOLE = dict.fromkeys(REQUIRED, 1) | {
    "state": "finished", "exit_reason": "", "final": True, "device": {"kind": "cpu"}, "versions": {"jax": "0"},
    "evals": [],
}  # fmt: skip
WHOLE_TEXT = json.dumps(WHOLE)
