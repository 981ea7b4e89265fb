"""Planners and preset plans."""
