"""The scaling laboratory: it knows tables, never models."""
