"""One case: read both sides, refuse different grids, score the classes that the reference knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.evaluation.overlap import Overlap, overlaps
from nnunetv2_clip.evaluation.volumes import LabelCoding, LabelVolume, MaskCoding, PaintedCoding

Coding = LabelCoding | PaintedCoding | MaskCoding


@dataclass(frozen=True)
class CaseJob:
    """What a worker needs to score one case.

    Attributes:
        reference, prediction: label file, or folder of masks.
        names: the classes to score: supervised in this case, and known to the prediction.
    """

    case_id: str
    reference: Path
    prediction: Path
    reference_coding: Coding
    prediction_coding: Coding
    names: tuple[str, ...]


def read_case(job: CaseJob) -> tuple[LabelVolume, LabelVolume]:
    """Reference and prediction of one case.

    Raises:
        UserError: a file cannot be read, holds unknown values, or the two grids differ.
    """
    reference = job.reference_coding.read(job.reference)
    prediction = job.prediction_coding.read(job.prediction)
    difference = reference.grid.differs_from(prediction.grid)
    if difference:
        raise UserError(
            f"case {job.case_id!r}",
            f"reference and prediction lie on different grids: {difference}",
            "a prediction on the grid of the reference",
            f"predict the image again in its own geometry, or compare the right folders "
            f"({job.reference} and {job.prediction})",
        )
    return reference, prediction


def case_overlaps(job: CaseJob) -> dict[str, Overlap]:
    """The overlap of every class of the job."""
    reference, prediction = read_case(job)
    return overlaps(reference, prediction, job.names)
