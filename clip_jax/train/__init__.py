"""Training: the step, the loop, what a run directory holds. `clip_jax.train_run` trains one run and measures it."""

import sys
import types
from typing import Any, NoReturn

from clip_jax.errors import UserError


class _Package(types.ModuleType):
    """This package, which says what replaced the function that had its name."""

    def __call__(self, *args: Any, **options: Any) -> NoReturn:
        raise UserError(
            field="clip_jax.train", reason="is a package", hint="the function is clip_jax.train_run(config, run_dir)"
        )


sys.modules[__name__].__class__ = _Package
