"""`clip-jax fit` and `clip-jax compare`: laws of any table."""
