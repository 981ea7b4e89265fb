"""CLIP-driven universal segmentation of partly labelled CT datasets, as a plugin of nnU-Net v2."""

__version__ = "0.1.0"
