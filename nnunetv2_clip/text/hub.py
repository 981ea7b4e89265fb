"""Weights from the Hugging Face hub without the hang: its client retries for a minute, one short question does not."""

from __future__ import annotations

import logging
import os
import ssl
import textwrap
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunetv2_clip.errors import UserError

DEFAULT_ENDPOINT = "https://huggingface.co"
TIMEOUT_SECONDS = 5.0


def hub_reachable(timeout_seconds: float = TIMEOUT_SECONDS) -> bool:
    """Does the hub (or the mirror in HF_ENDPOINT) answer at all? Honours proxy variables."""
    endpoint = os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT
    try:
        request = urllib.request.Request(endpoint, method="HEAD")
        urllib.request.urlopen(request, timeout=timeout_seconds).close()
    except urllib.error.HTTPError:  # it answered
        return True
    except urllib.error.URLError as error:
        # a certificate that Python's store lacks may be known to the hub's own client: let that try
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def offline_unless_reachable() -> Iterator[None]:
    """Within this block the hub's libraries use their cache alone when the hub does not answer."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not hub_reachable()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def quiet_logging() -> Iterator[None]:
    """Without the warnings and errors that libraries log before they raise: the error itself says it once."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def not_loadable(encoder: str, weights: Path | str | None, error: Exception) -> UserError:
    """What to say when a library could not load an encoder: the given file is wrong, or the ways out."""
    reason = textwrap.shorten(str(error), 300, placeholder=" ...")
    if weights and not Path(weights).is_file():
        return UserError(
            weights,
            f"is not loadable as the model folder of {encoder} ({reason})",
            "configuration, weights and tokenizer as they were saved or published",
            "fetch all files of the model again",
        )
    if weights:
        return UserError(
            weights,
            f"is not loadable as the weights of {encoder} ({reason})",
            "a state dict of this model (.safetensors, .bin, .pt)",
            "check that model and file belong together, and that the file is complete",
        )
    return UserError(
        f"--encoder {encoder}",
        f"its weights are neither in the cache nor can they be fetched ({reason})",
        "internet, a filled cache, or a local file",
        "one of these\n"
        "  1. run the same command where there is internet and copy the finished table here: training needs no more\n"
        "  2. copy ~/.cache/huggingface from a machine that has the weights, or let HF_HOME point to such a folder\n"
        "  3. open_clip: fetch the weights file elsewhere and give --weights FILE; hf: the model's folder, hf:FOLDER\n"
        "  4. name another encoder: --encoder minilm needs no internet (it is not CLIP, and the table will say so)",
    )
