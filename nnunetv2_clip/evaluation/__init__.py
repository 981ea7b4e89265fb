"""Metrics over partly labelled truth."""
