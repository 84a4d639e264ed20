"""Corpora that the project builds itself."""
