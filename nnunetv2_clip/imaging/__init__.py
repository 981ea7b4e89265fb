"""Scans and label maps as arrays with a geometry: reading, repairing, checking and drawing them."""

import logging

# nibabel writes what it corrects in headers to stderr, past --quiet; we say ourselves what is wrong with a file.
logging.getLogger("nibabel.global").disabled = True
