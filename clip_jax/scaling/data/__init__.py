"""Tables of runs and the observations in them."""
