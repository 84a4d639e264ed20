"""Implement `clip-jax fit`, `compare` and `design`: laws of any table."""
