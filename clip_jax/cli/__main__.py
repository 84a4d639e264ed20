"""`python -m clip_jax.cli`, which is what jobs call."""

import sys

from clip_jax.interrupts import listen

listen()  # before the slow imports

from clip_jax.cli.main import main  # noqa: E402

sys.exit(main())
