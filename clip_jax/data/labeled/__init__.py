"""Labeled image sets for evaluation: reading, class names, near-duplicates."""
