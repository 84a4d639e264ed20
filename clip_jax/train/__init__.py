"""Training: step, loop, checkpoints and run directory. `clip_jax.train_run` trains one run and evaluates it."""

import sys
import types
from typing import NoReturn

from clip_jax.errors import UserError


class _Package(types.ModuleType):
    """Module type of this package: calling it names the function that replaced ``clip_jax.train(...)``."""

    def __call__(self, *args: object, **options: object) -> NoReturn:
        hint = "the function is clip_jax.train_run(config, run_dir)"
        raise UserError(field="clip_jax.train", reason="is a package", hint=hint)


sys.modules[__name__].__class__ = _Package
