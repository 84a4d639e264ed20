"""Several runs of one shape in one program."""
