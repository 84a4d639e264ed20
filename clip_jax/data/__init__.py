"""Records and captions in, batches out."""
