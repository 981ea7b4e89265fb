"""One case: read both sides, refuse different grids, score the classes that the reference knows."""

from dataclasses import dataclass
from pathlib import Path

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.evaluation.overlap import Overlap, overlaps
from nnunetv2_clip.evaluation.results import RECALL
from nnunetv2_clip.evaluation.surface import surface_metrics
from nnunetv2_clip.evaluation.volumes import LabelCoding, LabelVolume, MaskCoding, PaintedCoding

Coding = LabelCoding | PaintedCoding | MaskCoding


@dataclass(frozen=True)
class CaseJob:
    """What a worker needs to score one case.

    Attributes:
        reference, prediction: label file, or folder of masks.
        names: the classes to score: true in this case, wholly or as far as drawn, and known to the prediction.
        incomplete: those of them of which only the drawn voxels are known.
        tolerances_mm: class -> tolerance of the surface metrics; None leaves them out.
    """

    case_id: str
    reference: Path
    prediction: Path
    reference_coding: Coding
    prediction_coding: Coding
    names: tuple[str, ...]
    tolerances_mm: dict[str, float] | None = None
    incomplete: frozenset[str] = frozenset()

    @property
    def file(self) -> Path:
        return self.prediction


def read_label_pair(job: CaseJob) -> tuple[LabelVolume, LabelVolume]:
    """Reference and prediction of one case.

    Raises:
        UserError: a file cannot be read, holds unknown values, or the two grids differ.
    """
    reference = job.reference_coding.read(job.reference)
    prediction = job.prediction_coding.read(job.prediction)
    difference = prediction.grid.difference(reference.grid)
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
    reference, prediction = read_label_pair(job)
    return overlaps(reference, prediction, job.names)


def case_metrics(job: CaseJob) -> dict[str, dict[str, float]]:
    """Class -> metrics and voxel counts (the names of `results.METRICS` and `results.COUNTS`)."""
    reference, prediction = read_label_pair(job)
    found = {}
    for name, overlap in overlaps(reference, prediction, job.names).items():
        if name in job.incomplete:
            found[name] = _metrics_of_drawn(overlap)
            continue
        found[name] = {
            "Dice": overlap.dice,
            "volume_difference_ml": (overlap.num_predicted - overlap.num_reference) * reference.grid.voxel_ml,
            "n_ref": overlap.num_reference,
            "n_pred": overlap.num_predicted,
            "n_overlap": overlap.true_positive,
        }
        if job.tolerances_mm is not None:
            nsd, hd95 = surface_metrics(reference, prediction, name, job.tolerances_mm[name])
            found[name].update(NSD=nsd, HD95=hd95)
    return found


def _metrics_of_drawn(overlap: Overlap) -> dict[str, float]:
    """What can be told where the voxels that were not drawn may be right as well."""
    return {RECALL: overlap.recall, "n_ref": overlap.num_reference, "n_overlap": overlap.true_positive}
