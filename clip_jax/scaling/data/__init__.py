"""Tables of runs, and the points in them."""
