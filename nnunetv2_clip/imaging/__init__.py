"""Scans and label maps as arrays with a geometry: reading, repairing, checking and drawing them."""
