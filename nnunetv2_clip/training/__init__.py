"""The trainer and what it needs from nnU-Net."""
