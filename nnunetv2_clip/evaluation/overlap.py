"""Overlap of a reference and a prediction: voxel counts of all classes in one pass, Dice and IoU."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from nnunetv2_clip.labels import SLAB_VOXELS, ClassMap

# Shapes: X Y Z voxels; R and P label values of reference and prediction.


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of one class in one case, voxels that are unknown for it left out.

    Dice and IoU follow the Medical Segmentation Decathlon's official code (surface-distance): NaN when both masks
    are empty, 0 when exactly one is.
    """

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @property
    def num_reference(self) -> int:
        return self.true_positive + self.false_negative

    @property
    def num_predicted(self) -> int:
        return self.true_positive + self.false_positive

    @property
    def dice(self) -> float:
        total = self.num_reference + self.num_predicted
        return 2 * self.true_positive / total if total else float("nan")

    @property
    def recall(self) -> float:
        """NaN where the reference is empty."""
        return self.true_positive / self.num_reference if self.num_reference else float("nan")

    @property
    def iou(self) -> float:
        union = self.num_reference + self.false_positive
        return self.true_positive / union if union else float("nan")


def overlaps(reference: ClassMap, prediction: ClassMap, names: Iterable[str]) -> dict[str, Overlap]:
    """The overlap of every named class; a class that a side does not know has no voxel there."""
    joint = joint_histogram(reference.values, prediction.values)
    joint[:, np.isin(np.arange(joint.shape[1]), prediction.unknown_values())] = 0
    found = {}
    for name in names:
        known = ~np.isin(np.arange(joint.shape[0]), reference.unknown_values(name))
        found[name] = _overlap(joint * known[:, None], reference.values_of(name), prediction.values_of(name))
    return found


def joint_histogram(reference: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """(R, P) int64: in how many voxels does the reference hold r and the prediction p."""
    num_reference, num_prediction = int(reference.max(initial=0)) + 1, int(prediction.max(initial=0)) + 1
    counts = np.zeros(num_reference * num_prediction, np.int64)
    reference, prediction = reference.reshape(-1), prediction.reshape(-1)
    for start in range(0, reference.size, SLAB_VOXELS):
        slab = slice(start, start + SLAB_VOXELS)
        pair = reference[slab].astype(np.intp) * num_prediction + prediction[slab]
        counts += np.bincount(pair, minlength=counts.size)
    return counts.reshape(num_reference, num_prediction)


def _overlap(joint: np.ndarray, reference_values: tuple[int, ...], prediction_values: tuple[int, ...]) -> Overlap:
    in_reference = np.isin(np.arange(joint.shape[0]), reference_values)
    in_prediction = np.isin(np.arange(joint.shape[1]), prediction_values)

    def count(rows: np.ndarray, columns: np.ndarray) -> int:
        return int(joint[np.ix_(rows, columns)].sum())

    return Overlap(
        true_positive=count(in_reference, in_prediction),
        false_positive=count(~in_reference, in_prediction),
        false_negative=count(in_reference, ~in_prediction),
        true_negative=count(~in_reference, ~in_prediction),
    )
