"""Scaling laws from tables of runs: fits, intervals, frontiers, forecasts and reports. Nothing here imports a model."""
