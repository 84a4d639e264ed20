"""Launchers: engines (local, Slurm, JobSet), per-run state files, and the reconciler."""
