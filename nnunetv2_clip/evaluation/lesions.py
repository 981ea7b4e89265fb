"""Lesions of one case: components of reference and prediction, and which of them meet."""

from dataclasses import dataclass

import numpy as np

from nnunetv2_clip.choices import FRACTION, IOU
from nnunetv2_clip.evaluation.cases import CaseJob, read_label_pair
from nnunetv2_clip.evaluation.volumes import LabelVolume, known_masks
from nnunetv2_clip.imaging.boxes import union_box
from nnunetv2_clip.imaging.components import connected_components

# Shapes: X Y Z voxels of the box around both masks; R reference lesions, P predicted lesions.


@dataclass(frozen=True)
class LesionRule:
    """What counts as a lesion, and when it is found.

    Attributes:
        min_lesion_ml: smaller 26-connected components are no lesions: in the prediction they are dropped, in the
            reference they are neither hit nor miss. 0.1 ml is a ball of 5.8 mm diameter.
        overlap_rule: "fraction": a reference lesion is found when predicted lesions cover at least `min_overlap` of
            it, and a predicted lesion is false when it meets no reference voxel. "iou": found when one predicted
            lesion reaches an intersection over union of `min_overlap`, false when it reaches it with no lesion.
    """

    min_lesion_ml: float = 0.1
    overlap_rule: str = FRACTION
    min_overlap: float = 0.1


@dataclass(frozen=True)
class CaseLesions:
    """Lesions of one class in one case.

    Attributes:
        reference_voxels: of the class in the reference, any component size.
        found: one flag per reference lesion.
        lesion_ml: volume of each reference lesion.
        num_predicted: predicted lesions, false ones included.
        num_false: predicted lesions that belong to no reference lesion.
    """

    reference_voxels: int
    found: tuple[bool, ...]
    lesion_ml: tuple[float, ...]
    num_predicted: int
    num_false: int


def case_lesions(job: CaseJob, rule: LesionRule) -> dict[str, CaseLesions]:
    """Class -> lesions, for every class of the case."""
    reference, prediction = read_label_pair(job)
    return {name: class_lesions(reference, prediction, name, rule) for name in job.names}


def class_lesions(reference: LabelVolume, prediction: LabelVolume, name: str, rule: LesionRule) -> CaseLesions:
    """The lesions of one class; voxels of the ignore label belong to neither side."""
    box = union_box((reference.box(name), prediction.box(name)))
    if box is None:
        return CaseLesions(0, (), (), 0, 0)
    truth, predicted = known_masks(reference, prediction, name, box)
    voxel_ml = reference.grid.voxel_ml
    true_lesions, true_sizes = _components(truth, rule.min_lesion_ml / voxel_ml)
    predicted_lesions, predicted_sizes = _components(predicted, rule.min_lesion_ml / voxel_ml)
    shared = _shared_voxels(true_lesions, predicted_lesions, len(true_sizes), len(predicted_sizes))
    if rule.overlap_rule == IOU:
        union = true_sizes[:, None] + predicted_sizes[None] - shared
        meets = _reaches(shared / union, rule.min_overlap)
        found, is_false = meets.any(axis=1), ~meets.any(axis=0)
    else:
        found = _reaches(shared.sum(axis=1) / true_sizes, rule.min_overlap)
        # Reference voxels of any component: a prediction on a lesion too small to count is no false alarm.
        touched = np.unique(predicted_lesions[truth])
        is_false = ~np.isin(np.arange(1, len(predicted_sizes) + 1), touched)
    volumes = tuple(float(size * voxel_ml) for size in true_sizes)
    flags = tuple(bool(flag) for flag in found)
    return CaseLesions(int(truth.sum()), flags, volumes, len(predicted_sizes), int(is_false.sum()))


def _components(mask: np.ndarray, min_voxels: float) -> tuple[np.ndarray, np.ndarray]:
    """(X, Y, Z) components numbered from 1, and (n,) their sizes; small ones dropped."""
    components, sizes = connected_components(mask)
    keep = np.flatnonzero((sizes >= min_voxels * (1 - 1e-9)) & (np.arange(len(sizes)) > 0))
    number = np.zeros(len(sizes), np.int32)
    number[keep] = np.arange(1, len(keep) + 1)
    return number[components], sizes[keep]


def _shared_voxels(first: np.ndarray, second: np.ndarray, num_first: int, num_second: int) -> np.ndarray:
    """(R, P) number of voxels that lesion r and lesion p share."""
    pair = first.astype(np.int64) * (num_second + 1) + second
    counts = np.bincount(pair.ravel(), minlength=(num_first + 1) * (num_second + 1))
    return counts.reshape(num_first + 1, num_second + 1)[1:, 1:]


def _reaches(value: np.ndarray, threshold: float) -> np.ndarray:
    """At least the threshold, and never without any overlap."""
    return (value >= threshold - 1e-9) & (value > 0)
