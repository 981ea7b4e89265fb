"""AbdomenCT-12organ and FLARE22: two label sets for which one name and one link are in use; the values decide."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_clip.conversion.laterality import Pair
from nnunetv2_clip.conversion.source import PairedSource, SourceCase, named_in
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.nifti import Volume, read_label_map
from nnunetv2_clip.runner import run_cases

KIDNEY, AORTA, POSTCAVA, ONLY_IN_FLARE22 = 2, 5, 6, 13
MIN_SIDE_SHARE = 0.2  # of the kidney voxels on either side of the great vessels, when both kidneys have one value
TWELVE_ORGANS = {
    1: ("liver",),
    2: (),  # kidneys of both sides
    3: ("spleen",),
    4: ("pancreas",),
    5: ("aorta",),
    6: ("postcava",),
    7: ("stomach",),
    8: ("gallbladder",),
    9: ("esophagus",),
    10: ("right_adrenal_gland",),
    11: ("left_adrenal_gland",),
    12: ("celiac_trunk",),
}
FLARE22 = {
    1: ("liver",),
    2: ("right_kidney",),
    3: ("spleen",),
    4: ("pancreas",),
    5: ("aorta",),
    6: ("postcava",),
    7: ("right_adrenal_gland",),
    8: ("left_adrenal_gland",),
    9: ("gallbladder",),
    10: ("esophagus",),
    11: ("stomach",),
    12: ("duodenum",),
    13: ("left_kidney",),
}
KIDNEYS = Pair("right_kidney", "left_kidney", (KIDNEY,))


@dataclass(frozen=True)
class ReleaseSource(PairedSource):
    """Files by name, under either release's names; all label maps are looked at before any is believed.

    Attributes:
        shows: what the label values of this release look like, in words.
        needs_proof: refuse label maps that could be from either release.
    """

    shows: str = ""
    needs_proof: bool = False

    def find_cases(self, root: Path) -> list[SourceCase]:
        cases = super().find_cases(root)
        found = release_of(case.labels["label"] for case in cases)
        if found != {self.name} and (found or self.needs_proof):
            raise UserError(
                root,
                f"the label values are those of {' and '.join(sorted(found)) or 'neither release for certain'}",
                f"{self.title}: {self.shows}",
                f"use --source {min(found)}={root}" if len(found) == 1 else "give the complete folder of one release",
            )
        return cases


def release_of(labels: Iterable[Path]) -> set[str]:
    """The releases that the label maps show themselves to be from; those that are damaged show nothing."""
    outcomes = run_cases(_release_of, list(labels), "which release")
    return {outcome.result for outcome in outcomes} - {None}


def _release_of(path: Path) -> str | None:
    label = read_label_map(path)
    if (label.data == ONLY_IN_FLARE22).any():
        return "flare22"
    return "abdomenct_12organ" if has_both_kidneys(label) else None


def has_both_kidneys(label: Volume) -> bool:
    """Kidney voxels lie on both sides of the great vessels, which have the same values in both releases."""
    kidney, vessel = (
        label.affine[0, :3] @ np.nonzero(np.isin(label.data, values)) for values in ((KIDNEY,), (AORTA, POSTCAVA))
    )
    if not kidney.size or not vessel.size:
        return False
    on_right = float((kidney > np.median(vessel)).mean())
    return min(on_right, 1 - on_right) > MIN_SIDE_SHARE


_FILES = {
    "image": r"(.*/)?(?P<case>(Organ12|FLARE22_Tr)_\d{4})_0000",
    "label": r"(.*/)?(?P<case>(Organ12|FLARE22_Tr)_\d{4})",
}

SOURCES = (
    ReleaseSource(
        name="abdomenct_12organ",
        title="AbdomenCT-12organ (the release of 2021)",
        licence="CC BY-NC-SA (as usually cited)",
        url="https://github.com/JunMa11/AbdomenCT-1K",
        unpack="the folder with Organ12_0001_0000.nii.gz (images) and Organ12_0001.nii.gz (labels)",
        num_cases=50,
        label_table=TWELVE_ORGANS,
        annotated=(KIDNEYS.right, KIDNEYS.left, *named_in(TWELVE_ORGANS)),
        pairs=(KIDNEYS,),
        shows="2 is both kidneys, and no file has a 13",
        needs_proof=True,
        **_FILES,
    ),
    ReleaseSource(
        name="flare22",
        title="FLARE22, the 50 labelled cases (also Zenodo 7860267)",
        licence="CC BY-NC-SA 4.0 or CC BY-NC-ND 4.0 (listings differ)",
        url="https://zenodo.org/records/7860267",
        unpack="the folder with FLARE22_Tr_0001_0000.nii.gz (images) and FLARE22_Tr_0001.nii.gz (labels)",
        num_cases=50,
        label_table=FLARE22,
        annotated=named_in(FLARE22),
        shows="2 is the right kidney and 13 the left one",
        **_FILES,
    ),
)
