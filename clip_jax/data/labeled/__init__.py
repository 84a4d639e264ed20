"""Sets of labeled pictures: reading, names of their classes, near duplicates."""
