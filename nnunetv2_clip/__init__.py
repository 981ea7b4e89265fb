"""CLIP-driven universal segmentation of partly labelled CT datasets, as a plugin of nnU-Net v2."""

from typing import TYPE_CHECKING

from nnunetv2_clip.errors import UserError

__version__ = "0.1.0"
__all__ = ["LoadedModel", "Segmentation", "UserError", "__version__", "load_model"]

if TYPE_CHECKING:
    from nnunetv2_clip.inference.loaded_model import LoadedModel, load_model
    from nnunetv2_clip.inference.segmentation import Segmentation


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nnunetv2_clip.inference import loaded_model  # imports torch, which takes seconds

    return getattr(loaded_model, name)
