"""Find the files of the report's cases: image, prediction, reference, and what the reference knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.evaluation.folders import (
    Side,
    find_dataset_json,
    find_manifest,
    is_image,
    prediction_side,
    reference_side,
    tables_of_predictions,
)
from nnunetv2_clip.evaluation.tolerances import tolerances_mm
from nnunetv2_clip.imaging.nifti import stem
from nnunetv2_clip.imaging.scans import find_scans
from nnunetv2_clip.manifest import Manifest
from nnunetv2_clip.report.cases import CaseFiles


def find_files(
    images: Path,
    predictions: Path,
    references: Path | None = None,
    dataset_json: Path | None = None,
    manifest: Path | None = None,
    with_nsd: bool = False,
    series: str = "",
) -> list[CaseFiles]:
    """The files of every prediction, in alphabetical order.

    Args:
        references: label files in the label values of dataset.json; a case without one is shown without truth.
        dataset_json: None: the one beside `references`, else the one that nnU-Net left beside the predictions.
        manifest: None: label_presence.json beside dataset.json if there is one; without any, every class of
            dataset.json counts as annotated in every case.
        images: what `predict` takes, and `series` as there.
        with_nsd: have the NSD computed too, at the Decathlon's tolerances (evaluation/tolerances.py).

    Raises:
        UserError: a folder is empty, an image is missing, or no dataset.json is found for the references.
    """
    found = _label_files(predictions, "-pred", "predictions of nnUNetv2_predict (.nii.gz)")
    images_of = {case.name: case for case in find_scans(images, series).cases}
    missing = [case_id for case_id in found if case_id not in images_of]
    if missing:
        raise UserError(
            images,
            f"has no image of {', '.join(missing[:10])}{' ...' if len(missing) > 10 else ''}",
            f"the CT of every file of {predictions}, under the name that predict gives it",
            "check -i",
        )
    json_file = dataset_json or (references and find_dataset_json(references)) or find_dataset_json(predictions, 0)
    presence = find_manifest(manifest, json_file)
    tables = tables_of_predictions(predictions)
    taxonomy = presence.taxonomy if presence else tables.taxonomy
    prediction = prediction_side(predictions, taxonomy, json_file)
    reference = reference_side(references, json_file, taxonomy) if references else None
    if reference and not set(reference.files) & set(found):
        raise UserError(references, "has no file named like a prediction", "the labels of the predicted cases")
    cases = [_case(case_id, images_of[case_id], taxonomy, prediction, reference, presence) for case_id in found]
    tolerances = tolerances_mm(prediction.classes, taxonomy) if with_nsd else None
    modality, sought = tables.modality, tables.known or ()
    return [replace(case, tolerances_mm=tolerances, modality=modality, sought=sought) for case in cases]


def _case(
    case_id: str, image: Path, taxonomy: Taxonomy, prediction: Side, reference: Side | None, presence: Manifest | None
) -> CaseFiles:
    truth = reference.files.get(case_id) if reference else None
    in_manifest = presence is not None and (truth is not None or case_id in presence.cases)
    entry = presence.case(case_id) if in_manifest else None
    names = tuple(row.name for row in taxonomy.subset(prediction.classes))
    known = reference.classes_of(case_id) if truth else frozenset()
    return CaseFiles(
        case_id,
        image,
        prediction.files[case_id],
        taxonomy,
        names,
        prediction.coding,
        truth,
        reference.coding if truth else None,
        tuple(name for name in names if name in known and (entry is None or name in entry.known)),
        entry.dataset if entry else "",
    )


def _label_files(folder: Path, option: str, expected: str) -> dict[str, Path]:
    """Case -> file."""
    if not folder.is_dir():
        raise UserError(f"{option} {folder}", "is no folder", expected)
    files = {stem(path): path for path in sorted(folder.iterdir()) if is_image(path)}
    if not files:
        raise UserError(f"{option} {folder}", "holds no NIfTI file", expected)
    return files
