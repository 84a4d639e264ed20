"""Evaluation: zero-shot, linear probe, few-shot, k-NN, retrieval, validation loss."""
