"""From records to batches: sampling, prefetching, decode cache."""
