"""The icons corpus: collect, render, split, write."""
