"""Phantoms in the published layout of each source dataset: file names, folders, label values as distributed."""

from nnunetv2_clip.phantom.layouts.base import SourceTruth, TruthCase, layout_names, write_source

__all__ = ["SourceTruth", "TruthCase", "layout_names", "write_source"]
