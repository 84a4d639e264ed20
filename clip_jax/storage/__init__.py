"""Files of runs and sweeps, here or in a bucket."""
