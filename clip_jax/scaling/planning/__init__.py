"""Plan the next runs: preregistered forecasts, experimental designs, comparisons."""
