"""Reading and writing published weights: openai, open_clip and transformers layouts."""
