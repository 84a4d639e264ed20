"""Sweeps and hyperparameter searches: plan, launch, monitor, collect, report."""
