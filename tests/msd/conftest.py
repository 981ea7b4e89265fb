"""Fixtures: one tiny download and complete predictions for it."""

from __future__ import annotations

import pytest

from tests.msd import tree

# liver, hepatic vessel, liver tumour, hepatic-vessel tumour, pancreas, its tumour, spleen, lung, lung tumour, colon
PAINTED = [6, 15, 27, 29, 11, 28, 1, 16, 30, 31, 2]


@pytest.fixture
def msd(tmp_path):
    return tree.write_download(tmp_path / "msd")


@pytest.fixture
def mri(tmp_path):
    return tree.write_mri(tmp_path / "mri")


@pytest.fixture
def painted(tmp_path):
    return tree.write_painted(tmp_path / "painted", PAINTED)
