"""Masks as a DICOM Segmentation that refers to the slices they were found in (DICOM part 3, section A.51)."""

# Shapes: K segments; Z Y X slices, rows, columns of the series.

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_clip import __version__
from nnunetv2_clip.classes import SNOMED_CONCEPT, UNIVERSAL, ClassRow, Taxonomy
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import replacing
from nnunetv2_clip.imaging.dicom.sources import REMEDY, SourceSlices
from nnunetv2_clip.imaging.pictures import color_of
from nnunetv2_clip.inference.masks import Mask
from nnunetv2_clip.job_folder import digest

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.coding import Code

MAKER = "nnunetv2_clip"
OWN_CODES = "99NNUNETV2CLIP"  # coding scheme of classes without a SNOMED CT concept: their index; 99 means private
SERIES_NUMBER = 100
LONGEST = 64  # characters of a DICOM long string
_REFUSED = (ValueError, TypeError, AttributeError, LookupError)  # what highdicom and pydicom raise on odd headers


@dataclass(frozen=True)
class Algorithm:
    """What has drawn the masks.

    Attributes:
        model: dataset and folder of the model.
        weights: weights file -> its SHA-256.
    """

    model: str
    weights: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits of all weights."""
        return digest(sorted(self.weights.items()))[:12]


def require_referable(where: object, source: SourceSlices) -> None:
    """Make sure, before anything is predicted, that masks of a series can be written.

    Raises:
        UserError: its headers are not those of slices to which a segmentation can refer.
    """
    first = source.headers[0]
    box = (slice(0, 1),) * 3
    voxel = Mask.of((first.Columns, first.Rows, len(source.positions)), box, np.ones((1, 1, 1), bool))
    try:
        row = UNIVERSAL.rows[0]
        segmentation(source, {row.name: voxel}, [row], UNIVERSAL, Algorithm("", {})).save_as(BytesIO())
    except _REFUSED as error:
        found = f"has headers to which a DICOM segmentation cannot refer ({' '.join(str(error).split())})"
        raise UserError(where, found, "a complete series of CT", REMEDY) from None


def write_dicom_seg(
    path: Path,
    source: SourceSlices,
    masks: Mapping[str, Mask],
    rows: Sequence[ClassRow],
    taxonomy: Taxonomy,
    algorithm: Algorithm,
) -> None:
    """One file with a binary segment for each class that was found, in the order of `rows`; segments may overlap.

    Frames without voxels are left out. Where nothing at all was found, the first class is there with empty frames: the
    standard knows no segmentation without frames.
    """
    found = [row for row in rows if masks[row.name]] or rows[:1]
    dataset = segmentation(source, masks, found, taxonomy, algorithm)
    with replacing(path) as beside:
        dataset.save_as(beside)


def segmentation(
    source: SourceSlices,
    masks: Mapping[str, Mask],
    rows: Sequence[ClassRow],
    taxonomy: Taxonomy,
    algorithm: Algorithm,
) -> Segmentation:
    """The segments of `rows`.

    Raises:
        ValueError: and what else of `_REFUSED` odd headers lead to.
    """
    import highdicom
    from highdicom.seg import SegmentationTypeValues

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd names of patients are copied, not judged
        return highdicom.seg.Segmentation(
            source_images=source.headers,
            pixel_array=_frames([masks[row.name] for row in rows]),
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=[_describe(number, row, taxonomy, algorithm) for number, row in enumerate(rows, 1)],
            plane_positions=[highdicom.PlanePositionSequence("PATIENT", position) for position in source.positions],
            omit_empty_frames=any(masks[row.name] for row in rows),
            series_instance_uid=highdicom.UID(),
            series_number=SERIES_NUMBER,
            series_description=f"Segmentation by {MAKER}",
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name=_dataset_of(algorithm),
            software_versions=__version__,
            device_serial_number=algorithm.fingerprint,
        )


def _frames(masks: Sequence[Mask]) -> np.ndarray:
    """(Z, Y, X, K) bool. Each segment has memory of its own, of which only what it fills is ever touched."""
    frames = np.zeros((len(masks), *masks[0].shape[::-1]), bool)
    for segment, mask in zip(frames, masks, strict=True):
        if mask:
            segment[mask.box[::-1]] = mask.voxels().T
    return np.moveaxis(frames, 0, -1)


def _describe(number: int, row: ClassRow, taxonomy: Taxonomy, algorithm: Algorithm) -> SegmentDescription:
    import highdicom
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    identification = highdicom.AlgorithmIdentificationSequence(
        name=_dataset_of(algorithm),
        family=codes.cid7162.ArtificialIntelligence,
        version=f"{__version__}, weights {algorithm.fingerprint}",
        source=MAKER,
        parameters={"model": algorithm.model, **algorithm.weights},
    )
    kind = code_of(row)
    parents = [taxonomy.find(name) for name in row.parents]
    regions = list(dict.fromkeys(code_of(parent) for parent in parents))
    description = SegmentDescription(
        segment_number=number,
        segment_label=row.name,
        segmented_property_category=_category(kind),
        segmented_property_type=kind,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=identification,
        anatomic_regions=regions[:1] or None,
        display_color=CIELabColor.from_rgb(*color_of(row)),
    )
    if row.side:
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [_side(row.side)]
    if len(parents) == 1 and parents[0].side:
        description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [_side(parents[0].side)]
    return description


def code_of(row: ClassRow) -> Code:
    """What a class is: its SNOMED CT concept, else its index in a private coding scheme."""
    from pydicom.sr.coding import Code

    concept = SNOMED_CONCEPT.fullmatch(row.snomed)
    if concept is None:
        return Code(str(row.index), OWN_CODES, row.prompt[:LONGEST])
    return Code(concept[1], "SCT", concept[2].strip()[:LONGEST])


def _category(kind: Code) -> Code:
    """Of DICOM's context group 7150; kinds of lesions are those of group 7159."""
    from pydicom.sr.codedict import codes

    if kind in codes.cid7159:
        return codes.cid7150.MorphologicallyAbnormalStructure
    return codes.cid7150.AnatomicalStructure


def _side(side: str):
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    return CodedConcept.from_code(codes.cid244.Right if side == "right" else codes.cid244.Left)


def _dataset_of(algorithm: Algorithm) -> str:
    return f"{MAKER} {algorithm.model.partition('/')[0]}".strip()[:LONGEST]
