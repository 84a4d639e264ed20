"""From records to batches: order, workers, cache."""
