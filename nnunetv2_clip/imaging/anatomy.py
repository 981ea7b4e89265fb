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
from nnunetv2_clip.imaging.components import connected_components
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
BONE_HU, SPINE_WINDOW_MM, MIN_BONE_MM2, MOSTLY_BESIDE = 200, 45.0, 250.0, 3.0
MIN_CUT_SHARE, MAX_END_SHARE = 0.5, 0.1  # of the body's largest section
MIN_ASPECT, MIN_OFFSET = 1.1, 0.05  # of depth to width; of bone's centre from the body's, in parts of its width
MIN_SPINE_DEPTH, MIN_SLICES = 0.12, 0.7  # of the body's depth, from its middle; of the slices that show bone
SOLID_HU, CORE_RADIUS_MM, MIN_CORE_ML, MIN_CORE_DISTANCE_MM = (20, 220), 20.0, 20.0, 35.0
MIN_ASYMMETRY, MAX_RIVAL = 0.5, 0.33
LUNG_HU, MIN_LUNG_SHARE, LUNG_DEPTH, MIN_LUNG_ML = -500, 0.12, 0.3, 20.0
MIN_LUNG_DISTANCE_MM = 8.0  # of the liver's core; the recesses of the lungs reach down beside it
HIP_THICKNESS_MM, MIN_HIPS_ML, MIN_HIP_HEIGHT_MM = 12.0, 20.0, 100.0
BESIDE_SPINE_MM = 45.0


@dataclass(frozen=True)
class Finding:
    """One axis of the body: 1 as the header says, -1 the other way round, 0 undecided; and what tells it."""

    verdict: int
    evidence: str


UNDECIDED = Finding(0, "nothing to tell it by")


@dataclass(frozen=True)
class Anatomy:
    """What the test found along the three axes, and whether these are the body's axes at all."""

    left_right: Finding
    front_back: Finding
    up_down: Finding
    axes: Finding = UNDECIDED

    @property
    def is_half_turned(self) -> bool:
        """Without doubt rotated by 180 degrees about the long axis: two independent signs and none against it."""
        return self._wrong == (True, True, False) and self.axes.verdict >= 0

    @property
    def problem(self) -> str:
        """What is wrong, in words; empty when nothing is known to be wrong."""
        if self.axes.verdict < 0:
            return f"turned by 90 degrees, or with axes exchanged: {self.axes.evidence}"
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
    core, front_back = _liver_core(body), _front_back(body)
    return Anatomy(
        left_right=_left_right_by_labels(centres, body) or _left_right_by_image(core, body),
        front_back=front_back,
        up_down=_up_down_by_labels(centres) or _up_down_by_image(core, body, front_back.verdict < 0),
        axes=_axes(body),
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


def _liver_core(body: Body) -> np.ndarray:
    """(N, 3) voxels deep inside the liver: the only organ of its depth that lies on one side; none if unsure.

    The heart is excluded by looking below the dome of the diaphragm only: at slices with little lung. Thighs have a
    partner on the other side; a brain, a full bladder and the muscles of the pelvic floor lie in the middle.
    """
    solid = (body.hu > SOLID_HU[0]) & (body.hu < SOLID_HU[1]) & body.mask
    solid = ndimage.uniform_filter(solid.astype(np.float32), 3) > 0.5  # a median, in a fifth of its time
    solid[:, :, _lung_share(body) > MIN_LUNG_SHARE] = False
    rounds = max(1, round(CORE_RADIUS_MM / float(body.edges_mm.mean())))
    numbers, sizes = connected_components(ndimage.binary_erosion(solid, iterations=rounds, border_value=1), 6)
    voxels = np.argwhere(numbers)
    if not len(voxels):
        return voxels
    number = numbers[tuple(voxels.T)]
    side = _sides(voxels, number, body)
    largest = np.argmax(sizes * (side != 0))
    rivals = sizes[side == -side[largest]].sum()
    is_liver = side[largest] and _ml(sizes[largest], body) >= MIN_CORE_ML and rivals < MAX_RIVAL * sizes[largest]
    return voxels[number == largest] if is_liver else voxels[:0]


def _sides(voxels: np.ndarray, number: np.ndarray, body: Body) -> np.ndarray:
    """(N + 1,) of each component: 1 on the right, -1 on the left, 0 in the middle or on both."""
    offset = voxels[:, 0] - np.nanmedian(body.middle)
    size = np.maximum(np.bincount(number), 1)
    mean, on_right = np.bincount(number, offset) / size, np.bincount(number, offset > 0) / size
    is_far = np.abs(mean) * body.edges_mm[0] >= MIN_CORE_DISTANCE_MM
    return np.where(is_far & (np.abs(2 * on_right - 1) >= MIN_ASYMMETRY), np.sign(mean), 0)


def _left_right_by_image(core: np.ndarray, body: Body) -> Finding:
    if not len(core):
        return UNDECIDED
    offset, organ = float(core[:, 0].mean() - np.nanmedian(body.middle)), "the largest solid organ lies on the"
    return _finding(offset, f"{organ} right", f"{organ} left")


def _front_back(body: Body) -> Finding:
    """In most slices bone near the middle lies behind the middle of the body.

    Not in all: blood full of contrast agent in the heart is as bright as bone, and lies in front of the spine.
    """
    bone = (body.hu > BONE_HU) & body.mask
    depths = []
    for k in np.flatnonzero(np.isfinite(body.middle)):
        columns = np.abs(np.arange(bone.shape[0]) - body.middle[k]) * body.edges_mm[0] <= SPINE_WINDOW_MM
        y = np.nonzero(bone[columns, :, k])[1]
        if bone[~columns, :, k].sum() > MOSTLY_BESIDE * len(y):  # hips: what lies between them may be the pubic bone
            continue
        rows = np.flatnonzero(body.mask[:, :, k].any(axis=0))
        if len(y) * body.edges_mm[0] * body.edges_mm[1] >= MIN_BONE_MM2:
            depths.append(((rows[0] + rows[-1]) / 2 - np.median(y)) / (rows[-1] + 1 - rows[0]))
    if len(depths) < 0.25 * np.isfinite(body.middle).sum():
        return UNDECIDED
    behind, before = (float((np.array(depths) * sign > MIN_SPINE_DEPTH).mean()) for sign in (1, -1))
    if max(behind, before) < MIN_SLICES:
        return UNDECIDED
    return _finding(behind - before, "the spine lies behind", "the spine lies in front")


def _axes(body: Body) -> Finding:
    """A scan cuts the body at its upper and lower end, and the spine lies between right and left."""
    faces = [_cut_share(body.mask, axis) for axis in range(3)]
    if max(faces[:2]) > MIN_CUT_SHARE and faces[2] < MAX_END_SHARE:
        return Finding(-1, "the body leaves the image at its sides and not at its ends")
    slices = [_slice_shape(body, k) for k in np.flatnonzero(np.isfinite(body.middle))]
    seen = [shape for shape in slices if shape is not None]
    if len(seen) < 0.25 * len(slices) or not seen:
        return UNDECIDED
    aspect, across, along = np.median(seen, axis=0)
    is_turned = aspect > MIN_ASPECT and abs(across) > max(MIN_OFFSET, 2 * abs(along))
    return Finding(-1, "the body is deeper than wide, and the spine lies at the side") if is_turned else UNDECIDED


def _cut_share(mask: np.ndarray, axis: int) -> float:
    """How much of its largest section along an axis the body has where it leaves the image, at the smaller end."""
    areas = mask.sum(axis=tuple(other for other in range(3) if other != axis))
    return float(min(areas[0], areas[-1]) / max(areas.max(), 1))


def _slice_shape(body: Body, k: int) -> tuple[float, float, float] | None:
    """Depth to width of the body in a slice, and how far bone lies from its middle along x and y, in parts of its size.

    None where a slice shows too little bone.
    """
    bone = np.argwhere((body.hu[:, :, k] > BONE_HU) & body.mask[:, :, k])
    if len(bone) * body.edges_mm[0] * body.edges_mm[1] < MIN_BONE_MM2:
        return None
    outline = np.argwhere(body.mask[:, :, k])
    first, last = outline.min(axis=0), outline.max(axis=0)
    width, depth = (last + 1 - first) * body.edges_mm[:2]
    across, along = (bone.mean(axis=0) - (first + last) / 2) / (last + 1 - first)
    return depth / width, across, along


def _up_down_by_labels(centres: Mapping[str, np.ndarray]) -> Finding | None:
    heights = {title: [centres[name][2] for name in names if name in centres] for title, names in LEVELS.items()}
    known = [(float(np.mean(level)), title) for title, level in heights.items() if level]
    if len(known) < 2:
        return None
    (upper, above), (lower, below) = known[0], known[-1]
    if abs(upper - lower) < MIN_DISTANCE_MM:
        return None
    return _finding(upper - lower, f"{above} above {below}", f"{above} below {below}")


def _up_down_by_image(core: np.ndarray, body: Body, is_front_behind: bool) -> Finding:
    """Lungs lie above the liver, hips far below it."""
    if not len(core):
        return UNDECIDED
    liver = float(core[:, 2].mean())
    lungs = _lung_voxels(body, is_front_behind)
    if _ml(lungs.sum(), body) >= MIN_LUNG_ML:
        distance = (_height(lungs) - liver) * body.edges_mm[2]
        if abs(distance) >= MIN_LUNG_DISTANCE_MM:
            return _finding(distance, "air of the lungs above the liver", "air of the lungs below the liver")
    hips = _hip_voxels(body)
    if _ml(hips.sum(), body) >= MIN_HIPS_ML:
        distance = (liver - _height(hips)) * body.edges_mm[2]
        if abs(distance) >= MIN_HIP_HEIGHT_MM:
            return _finding(distance, "hip bones below the liver", "hip bones above the liver")
    return UNDECIDED


def _lung_voxels(body: Body, is_front_behind: bool) -> np.ndarray:
    """(z,) voxels of air in the back of the body beside the spine, where there is no bowel gas."""
    seen = body.mask.any(axis=0)
    first, last = seen.argmax(axis=0), seen.shape[0] - seen[::-1].argmax(axis=0)
    depth = (np.arange(seen.shape[0])[:, None] + 0.5 - first) / np.maximum(last - first, 1)  # 0 at the back
    is_back = depth > 1 - LUNG_DEPTH if is_front_behind else depth < LUNG_DEPTH
    return _beside_spine((body.hu < LUNG_HU) & body.mask & is_back, body)


def _hip_voxels(body: Body) -> np.ndarray:
    """(z,) voxels deep inside bone beside the spine, where ribs are too thin."""
    rounds = max(1, round(HIP_THICKNESS_MM / 2 / float(body.edges_mm[:2].mean())))
    bone = (body.hu > BONE_HU) & body.mask
    return _beside_spine(ndimage.binary_erosion(bone, np.ones((3, 3, 1), bool), iterations=rounds), body)


def _beside_spine(mask: np.ndarray, body: Body) -> np.ndarray:
    """(z,) voxels of a mask that lie to the side of the middle; none where there is no body."""
    distance = np.abs(np.arange(len(mask))[:, None] - body.middle) * body.edges_mm[0]
    return (mask & (distance > BESIDE_SPINE_MM)[:, None]).sum(axis=(0, 1))


def _height(voxels: np.ndarray) -> float:
    return float(np.average(np.arange(len(voxels)), weights=voxels))


def _ml(num_voxels: int, body: Body) -> float:
    return num_voxels * float(np.prod(body.edges_mm)) / 1000


def _lung_share(body: Body) -> np.ndarray:
    """(z,) part of the body in each slice that is air."""
    air = ((body.hu < LUNG_HU) & body.mask).sum(axis=(0, 1))
    return air / np.maximum(body.mask.sum(axis=(0, 1)), 1)


def _finding(amount: float, right: str, wrong: str) -> Finding:
    return Finding(1, right) if amount > 0 else Finding(-1, wrong)
