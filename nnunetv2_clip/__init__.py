"""CLIP-driven universal segmentation of partly labelled CT datasets, as a plugin of nnU-Net v2."""

from nnunetv2_clip.errors import UserError

__version__ = "0.1.0"
__all__ = ["UserError", "__version__", "load_model"]


def __getattr__(name: str):
    if name != "load_model":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nnunetv2_clip.inference.loading import load_model  # imports torch, which takes seconds

    return load_model
