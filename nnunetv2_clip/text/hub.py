"""No hang without internet: the Hugging Face hub retries for a minute, one short question answers it at once."""

from __future__ import annotations

import logging
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

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
