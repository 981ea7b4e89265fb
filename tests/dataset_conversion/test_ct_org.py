"""CT-ORG: the bladder's presence per case, lungs that touch."""

import numpy as np

from nnunetv2_clip.phantom.layouts import write_source

SMALL = {"spacing_mm": (8.0, 8.0, 10.0)}


def test_bladder_is_annotated_only_where_it_is_drawn(convert, converted, tmp_path):
    source = write_source(
        "ct_org", tmp_path / "ct", [1, 2], numbers=(48, 49), anatomy={1: {"missing": {"bladder"}}}, **SMALL
    )
    assert convert("--source", f"ct_org={source.root}")[0] == 0
    cases = converted.cases
    assert "bladder" not in cases["ct_org_48"].annotated
    assert "bladder" in cases["ct_org_49"].annotated
    assert cases["ct_org_48"].geometry_fixes == ("bladder not annotated: the label map has none",)


def test_as_in_the_paper_the_bladder_is_annotated_everywhere(convert, converted, tmp_path):
    source = write_source("ct_org", tmp_path / "ct", [1], numbers=(48,), anatomy={1: {"missing": {"bladder"}}}, **SMALL)
    assert convert("--source", f"ct_org={source.root}", "--as-paper")[0] == 0
    assert "bladder" in converted.cases["ct_org_48"].annotated
    assert not converted.mask("ct_org_48", "bladder").any()


def test_lungs_that_touch_are_cut(convert, converted, tmp_path):
    source = write_source("ct_org", tmp_path / "ct", [1], numbers=(48,), anatomy={1: {"fused": {"lungs"}}}, **SMALL)
    assert convert("--source", f"ct_org={source.root}")[0] == 0
    right, left = (converted.mask("ct_org_48", f"{side}_lung") for side in ("right", "left"))
    assert 0.6 < right.sum() / left.sum() < 1.6
    assert not (right & left).any()
    x = converted.label("ct_org_48").affine[0, :3] @ np.nonzero(right)
    assert np.median(x) > np.median(converted.label("ct_org_48").affine[0, :3] @ np.nonzero(left))
