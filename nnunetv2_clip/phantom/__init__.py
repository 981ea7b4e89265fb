"""Synthetic abdominal CTs with all 32 classes."""
