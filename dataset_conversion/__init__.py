"""Converters: one module per source dataset, and the merge."""
