"""Each patient is drawn once for all tests of the layouts: drawing is most of their time."""

import pytest

from nnunetv2_clip.phantom import anatomy
from nnunetv2_clip.phantom.layouts import base

_drawn = {}


def draw_once(seed, spacing_mm_xyz, body_mm_xyz=anatomy.DEFAULT_BODY_MM, **options):
    key = (
        seed,
        tuple(spacing_mm_xyz),
        body_mm_xyz,
        repr(sorted((name, sorted(v)) for name, v in options.items() if v)),
    )
    if key not in _drawn:
        _drawn[key] = anatomy.make_phantom(seed, spacing_mm_xyz, body_mm_xyz, **options)
        for array in (_drawn[key].image, *_drawn[key].masks.values(), *_drawn[key].extras.values()):
            array.setflags(write=False)  # a layout that changes its phantom would spoil the others'
    return _drawn[key]


@pytest.fixture(autouse=True)
def drawn_once(monkeypatch):
    monkeypatch.setattr(base, "make_phantom", draw_once)


@pytest.fixture
def drawn():
    return draw_once
