"""Facts that the command line shows and the library takes from here; no imports, so that --help is fast."""

CHECKPOINT = "checkpoint_final.pth"

# How a training starts from a trained model (training/extension.py).
MODES = FROZEN, FINE_TUNE, TRANSFER = ("frozen", "fine-tune", "transfer")
