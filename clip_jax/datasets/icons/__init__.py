"""The icons corpus: collect icon sets, render, split, write shards."""
