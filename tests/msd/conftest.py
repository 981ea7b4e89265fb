"""Fixtures: one tiny download and complete predictions for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import msd_tree  # noqa: E402

# liver, hepatic vessel, liver tumour, hepatic-vessel tumour, pancreas, its tumour, spleen, lung, lung tumour, colon
PAINTED = [6, 15, 27, 29, 11, 28, 1, 16, 30, 31, 2]


@pytest.fixture
def msd(tmp_path):
    return msd_tree.write_download(tmp_path / "msd")


@pytest.fixture
def mri(tmp_path):
    return msd_tree.write_mri(tmp_path / "mri")


@pytest.fixture
def painted(tmp_path):
    return msd_tree.write_painted(tmp_path / "painted", PAINTED)
