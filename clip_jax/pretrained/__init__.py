"""Weights of others, in and out."""
