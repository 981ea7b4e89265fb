"""Does a volume lie in RAS as its header says: liver right, spleen left, spine behind, lungs above.

Labels speak where they are there, the image otherwise. Each axis of the body is right, wrong or undecided; which axes
are wrong together tells a mirrored volume from a rotated one.
"""

# Shapes: X Y Z voxels in the image's own axis order; x y z the thinned grid of `body`, in RAS.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.imaging.body import Body, find_body, thinned
from nnunetv2_clip.imaging.header_repairs import half_turn
from nnunetv2_clip.imaging.nifti import Volume
from nnunetv2_clip.labels import ClassMap

RIGHT_CLASSES = ("liver", "gallbladder", "hepatic_vessel")  # no lesions: these may lie across the mid-line
LEFT_CLASSES = ("spleen", "stomach")
LEVELS = {  # from the head to the feet
    "lungs": ("right_lung", "left_lung", "lung_tumor"),
    "upper abdomen": ("liver", "spleen", "pancreas"),
    "pelvis": ("bladder", "prostate", "rectum", "left_femur_head", "right_femur_head"),
}
MIN_DISTANCE_MM = 15.0
SPECK_SHARE = 0.05  # of the typical volume of an organ
BONE_HU, SPINE_WINDOW_MM, MIN_BONE_MM2 = 200, 45.0, 250.0
MIN_SPINE_DEPTH, MIN_SLICES = 0.12, 0.7  # of the body's depth, from its middle; of the slices that show bone
SOLID_HU, CORE_RADIUS_MM, MIN_ASYMMETRY = (20, 220), 20.0, 0.5
LUNG_HU, MIN_LUNG_SHARE = -500, 0.12


@dataclass(frozen=True)
class Finding:
    """One axis of the body: 1 as the header says, -1 the other way round, 0 undecided; and what tells it."""

    verdict: int
    evidence: str


UNDECIDED = Finding(0, "nothing to tell it by")


@dataclass(frozen=True)
class Anatomy:
    """What the test found along the three axes."""

    left_right: Finding
    front_back: Finding
    up_down: Finding

    @property
    def is_half_turned(self) -> bool:
        """Without doubt rotated by 180 degrees about the long axis: two independent signs and none against it."""
        return self._wrong == (True, True, False)

    @property
    def problem(self) -> str:
        """What is wrong, in words; empty when nothing is known to be wrong."""
        kind = {
            (True, False, False): "mirrored (right and left exchanged), or a patient with exchanged organs",
            (False, True, False): "front and back exchanged",
            (False, False, True): "upside down (slices in reverse order)",
            (True, True, False): "rotated by 180 degrees about the long axis",
            (True, False, True): "rotated by 180 degrees about the axis from back to front",
            (False, True, True): "rotated by 180 degrees about the axis from left to right",
            (True, True, True): "reversed along all three axes",
        }.get(self._wrong, "")
        findings = (self.left_right, self.front_back, self.up_down)
        evidence = "; ".join(finding.evidence for finding in findings if finding.verdict < 0)
        return f"{kind}: {evidence}" if kind else ""

    @property
    def _wrong(self) -> tuple[bool, bool, bool]:
        return tuple(finding.verdict < 0 for finding in (self.left_right, self.front_back, self.up_down))


def check_anatomy(image: Volume, labels: ClassMap | None = None) -> Anatomy:
    """Test a volume.

    Args:
        image: Hounsfield units.
        labels: on its grid.
    """
    body = find_body(image)
    if not body.mask.any():
        return Anatomy(UNDECIDED, UNDECIDED, UNDECIDED)
    centres = {}
    if labels is not None:
        centres = class_centres(ClassMap(thinned(labels.values, image.affine, body.step), labels.sets), body.edges_mm)
    return Anatomy(
        left_right=_left_right_by_labels(centres, body) or _left_right_by_image(body),
        front_back=_front_back(body),
        up_down=_up_down_by_labels(centres) or _up_down_by_image(body),
    )


def mend_half_turn(image: Volume, labels: ClassMap) -> tuple[Volume, str]:
    """The image rotated back where the anatomy says beyond doubt that its header is rotated by 180 degrees."""
    anatomy = check_anatomy(image, labels)
    if not anatomy.is_half_turned:
        return image, ""
    return half_turn(image), f"header rotated by 180 degrees ({anatomy.problem})"


def class_centres(labels: ClassMap, edges_mm: np.ndarray) -> dict[str, np.ndarray]:
    """Class -> mean position in mm from the corner of the (x, y, z) label map; classes without voxels are left out."""
    return {name: np.argwhere(labels.mask(name)).mean(axis=0) * edges_mm for name in labels.num_voxels()}


def organs_on_wrong_side(
    centres_mm: Mapping[str, np.ndarray], volumes_ml: Mapping[str, float], taxonomy: Taxonomy
) -> tuple[str, ...]:
    """What lies on the wrong side, in words: a right organ to the left of its partner, the liver left of the spleen.

    Args:
        centres_mm: class -> (3,) position in RAS.
        volumes_ml: class -> what was found of it. A speck of an organ lies anywhere and is not asked.
    """
    large = [row for row in taxonomy.subset(centres_mm) if volumes_ml[row.name] >= SPECK_SHARE * row.volume_ml]
    found = {row.name: float(centres_mm[row.name][0]) for row in large}
    first = [next((name for name in names if name in found), None) for names in (RIGHT_CLASSES, LEFT_CLASSES)]
    pairs = [tuple(first), *((row.name, row.partner) for row in large if row.side == "right")]
    return tuple(
        f"{right} lies left of {left}: a mirrored or turned image, or exchanged organs"
        for right, left in pairs
        if right in found and left in found and found[right] < found[left] - MIN_DISTANCE_MM
    )


def _left_right_by_labels(centres: Mapping[str, np.ndarray], body: Body) -> Finding | None:
    if "liver" in centres and "spleen" in centres:
        distance = float(centres["liver"][0] - centres["spleen"][0])
        if abs(distance) > MIN_DISTANCE_MM:
            return _finding(distance, "the liver lies to the right of the spleen", "the liver lies left of the spleen")
    middle = float(np.nanmedian(body.middle) * body.edges_mm[0])
    for names, side, other, sign in ((RIGHT_CLASSES, "right", "left", 1), (LEFT_CLASSES, "left", "right", -1)):
        for name in names:
            if name not in centres:
                continue
            distance = float(centres[name][0] - middle) * sign
            if abs(distance) > MIN_DISTANCE_MM:
                return _finding(distance, f"{name} lies on the {side}", f"{name} lies on the {other}")
    return None


def _left_right_by_image(body: Body) -> Finding:
    """The liver is the only solid organ of its depth in the abdomen: its core lies on the right.

    The heart is excluded by looking below the dome of the diaphragm only: at slices with little lung.
    """
    solid = (body.hu > SOLID_HU[0]) & (body.hu < SOLID_HU[1]) & body.mask
    solid = ndimage.median_filter(solid, size=3)
    solid[:, :, _lung_share(body) > MIN_LUNG_SHARE] = False
    rounds = max(1, round(CORE_RADIUS_MM / float(body.edges_mm.mean())))
    core = ndimage.binary_erosion(solid, iterations=rounds)
    x = np.nonzero(core)[0]
    if len(x) * float(np.prod(body.edges_mm)) < 20_000:  # 20 ml
        return UNDECIDED
    on_right = float((x > np.nanmedian(body.middle)).mean())
    asymmetry = 2 * on_right - 1
    if abs(asymmetry) < MIN_ASYMMETRY:
        return UNDECIDED
    return _finding(asymmetry, "the largest solid organ lies on the right", "the largest solid organ lies on the left")


def _front_back(body: Body) -> Finding:
    """In most slices bone near the middle lies behind the middle of the body.

    Not in all: blood full of contrast agent in the heart is as bright as bone, and lies in front of the spine.
    """
    bone = (body.hu > BONE_HU) & body.mask
    depths = []
    for k in np.flatnonzero(np.isfinite(body.middle)):
        columns = np.abs(np.arange(bone.shape[0]) - body.middle[k]) * body.edges_mm[0] <= SPINE_WINDOW_MM
        y = np.nonzero(bone[columns, :, k])[1]
        rows = np.flatnonzero(body.mask[:, :, k].any(axis=0))
        if len(y) * body.edges_mm[0] * body.edges_mm[1] >= MIN_BONE_MM2:
            depths.append(((rows[0] + rows[-1]) / 2 - np.median(y)) / (rows[-1] + 1 - rows[0]))
    if len(depths) < 0.25 * np.isfinite(body.middle).sum():
        return UNDECIDED
    behind, before = (float((np.array(depths) * sign > MIN_SPINE_DEPTH).mean()) for sign in (1, -1))
    if max(behind, before) < MIN_SLICES:
        return UNDECIDED
    return _finding(behind - before, "the spine lies behind", "the spine lies in front")


def _up_down_by_labels(centres: Mapping[str, np.ndarray]) -> Finding | None:
    heights = {title: [centres[name][2] for name in names if name in centres] for title, names in LEVELS.items()}
    known = [(float(np.mean(level)), title) for title, level in heights.items() if level]
    if len(known) < 2:
        return None
    (upper, above), (lower, below) = known[0], known[-1]
    if abs(upper - lower) < MIN_DISTANCE_MM:
        return None
    return _finding(upper - lower, f"{above} above {below}", f"{above} below {below}")


def _up_down_by_image(body: Body) -> Finding:
    """Lungs are the only large air inside the body; they lie at the upper end."""
    share = _lung_share(body)[np.isfinite(body.middle)]
    quarter = max(1, len(share) // 4)
    difference = float(share[-quarter:].mean() - share[:quarter].mean())
    if abs(difference) < MIN_LUNG_SHARE:
        return UNDECIDED
    return _finding(difference, "air of the lungs at the upper end", "air of the lungs at the lower end")


def _lung_share(body: Body) -> np.ndarray:
    """(z,) part of the body in each slice that is air."""
    air = ((body.hu < LUNG_HU) & body.mask).sum(axis=(0, 1))
    return air / np.maximum(body.mask.sum(axis=(0, 1)), 1)


def _finding(amount: float, right: str, wrong: str) -> Finding:
    return Finding(1, right) if amount > 0 else Finding(-1, wrong)
