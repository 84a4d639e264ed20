"""`python -m clip_jax.cli`, which is what jobs call."""

import sys

from clip_jax.interrupts import listen

if __name__ == "__main__":  # before the slow imports, during which an interrupt would be lost
    listen()

from clip_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
