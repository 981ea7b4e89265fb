"""CT-ORG: the bladder's presence per case, lungs that touch."""

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.cli import main
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


@pytest.fixture
def written(tmp_path):
    """One case in LPS; its label, its volume or both get another header (`spoil`)."""
    source = write_source("ct_org", tmp_path / "ct", [1], numbers=(48,), **SMALL)

    def spoil(*paths, affine):
        for path in paths:
            image = nib.load(path)
            nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), affine @ image.affine), path)
        return source

    [case] = source.cases.values()
    return case, spoil


def test_a_wrong_header_of_a_label_is_mended_where_the_arrays_fit(written, convert, converted):
    case, spoil = written
    drawn = np.asanyarray(nib.load(case.labels[0]).dataobj)
    source = spoil(case.labels[0], affine=np.diag([-1, -1, 1, 1]))
    assert convert("--source", f"ct_org={source.root}", "--no-repair", "label_header")[0] == 3
    assert convert("--source", f"ct_org={source.root}")[0] == 0
    assert np.array_equal(converted.mask("ct_org_48", "liver"), drawn == 1)
    assert "taken from its volume" in converted.cases["ct_org_48"].geometry_fixes[0]


def test_sides_of_a_mirrored_pair_are_not_annotated(written, convert, converted, tmp_path):
    case, spoil = written
    source = spoil(case.image, *case.labels, affine=np.diag([-1, 1, 1, 1]))
    assert convert("--source", f"ct_org={source.root}")[0] == 0
    found = converted.cases["ct_org_48"]
    assert set(found.annotated) == {"liver", "bladder"}
    assert "sides not annotated: looks mirrored" in found.geometry_fixes[-1]
    page = ["-o", str(tmp_path / "check.html"), "--partial", "-np", "1"]
    assert main(["check", "--source", f"ct_org={source.root}", *page]) == 1


def test_cases_that_are_reported_to_be_faulty_are_named(convert, capsys, tmp_path):
    source = write_source("ct_org", tmp_path / "ct", [1, 2, 3], numbers=(19, 48, 131), **SMALL)
    assert main(["convert", "-d", "900", "-np", "1", "--source", f"ct_org={source.root}"]) == 0
    said = capsys.readouterr().out
    assert "reported faulty, look at them: 19\n" in said and "wrong headers, look at them: 131\n" in said
