"""Sweeps and searches: plan, run on an engine, look, report."""
