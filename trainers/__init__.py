"""The trainers that nnU-Net discovers: re-exports only."""
