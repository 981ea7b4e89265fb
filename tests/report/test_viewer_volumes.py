"""The viewer's volumes keep their place in the body, and their data cannot break out of the page."""

from __future__ import annotations

import base64
import gzip
import json
import re

import nibabel as nib
import numpy as np

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.pages import asset
from nnunetv2_clip.report.find import find_files
from nnunetv2_clip.report.page import render_page
from nnunetv2_clip.report.viewer_volumes import ViewerCase, ViewerJob, thin_out, viewer_case


def unpacked(text: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def test_thinned_voxels_keep_their_position():
    volume, affine = np.arange(10 * 6 * 3).reshape(10, 6, 3), np.diag([0.7, 1.0, 5.0, 1.0])
    thinned, moved = thin_out(volume, affine, [3, 2, 1])
    assert thinned.shape == (3, 3, 3)
    for index in np.ndindex(thinned.shape):
        position = moved @ [*index, 1]
        original = np.rint(np.linalg.solve(affine, position)).astype(int)
        assert volume[tuple(original[:3])] == thinned[index]


def test_labels_are_universal_indices_on_both_sides(study):
    files = find_files(study.images, study.predictions, study.references)[0]
    case = viewer_case(ViewerJob(files, (2, 1, 1), "bone"))
    assert (case.focus, case.window) == ((4.0, 2.0, 5.0), "bone")
    assert case.painted == (6, 27)
    assert set(np.unique(unpacked(case.prediction).dataobj)) == {0, 6, 27}
    assert (np.asanyarray(unpacked(case.reference).dataobj) == 27).sum() == 4
    assert (np.asanyarray(unpacked(case.ct).dataobj) == 40).all()


def test_data_cannot_close_its_script_element():
    html = render_page(
        "t", [], UNIVERSAL, viewer=[ViewerCase("</script><b>", (0.0, 0.0, 0.0), (6,), "lung", "x", "y", None)]
    )
    data = re.search(r'id="viewer-data">(.*?)</script>', html, re.S)[1]
    assert json.loads(data)["cases"][0]["id"] == "</script><b>"


def test_niivue_is_in_the_page_only_when_asked_for_and_its_licences_lie_beside_it():
    assert "niivue" not in render_page("t", [], UNIVERSAL)
    licences = asset("niivue.min.js.LICENSES.txt")
    for text in ("@niivue/niivue 0.69.0 (BSD-2-Clause)", "Copyright (c) 2021, Niivue", "fflate", "MIT License"):
        assert text in licences


def test_niivue_cannot_break_the_page():
    code = asset("niivue.min.js")
    assert code.isascii()
    assert "</script" not in code
    assert "<!--" not in code
