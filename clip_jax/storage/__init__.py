"""Files of runs and sweeps, on a local file system or in a Google Cloud Storage bucket."""
