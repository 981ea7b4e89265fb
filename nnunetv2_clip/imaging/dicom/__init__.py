"""DICOM: what a file is (header), its stored values (pixels), and stacks of slices (series)."""
