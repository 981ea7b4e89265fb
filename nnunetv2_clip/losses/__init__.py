"""Masked losses over annotated (case, class) pairs, and their targets."""
