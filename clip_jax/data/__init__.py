"""Data pipeline: sources of image-caption records, transforms, tokenizers, labeled sets, batches."""
