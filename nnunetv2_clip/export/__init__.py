"""Submission files for challenges."""
