"""Find the files of the report's cases: image, prediction, reference, and what the reference knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.evaluation.folders import find_dataset_json, find_manifest, is_image
from nnunetv2_clip.evaluation.tolerances import tolerances_mm
from nnunetv2_clip.evaluation.volumes import LabelCoding
from nnunetv2_clip.imaging.nifti import stem
from nnunetv2_clip.imaging.scans import find_scans
from nnunetv2_clip.labels import class_names, load_dataset_json
from nnunetv2_clip.report.cases import CaseFiles
from nnunetv2_clip.trained_model import ModelTables


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
    json_path = _find_dataset_json(predictions, references, dataset_json)
    remedy = "give the dataset.json of the references with --dataset-json"
    labels = None if json_path is None else load_dataset_json(json_path, remedy)["labels"]
    presence = find_manifest(manifest, json_path)
    beside = ModelTables.beside(predictions)
    taxonomy = presence.taxonomy if presence else beside.taxonomy
    names = beside.known or (class_names(labels) if labels else taxonomy.names)
    truth = _label_files(references, "-ref", "label files (.nii.gz)") if references else {}
    coding = LabelCoding.of(labels, taxonomy, json_path) if truth else None
    if truth and not set(truth) & set(found):
        raise UserError(references, "has no file named like a prediction", "the labels of the predicted cases")
    cases = [
        _case(case_id, images_of[case_id], path, taxonomy, names, truth.get(case_id), coding, presence)
        for case_id, path in found.items()
    ]
    tolerances = tolerances_mm(names, taxonomy) if with_nsd else None
    return [replace(case, tolerances_mm=tolerances) for case in cases]


def _case(case_id, image, prediction, taxonomy: Taxonomy, names, reference, coding, presence) -> CaseFiles:
    in_manifest = presence is not None and (reference is not None or case_id in presence.cases)
    entry = presence.case(case_id) if in_manifest else None
    known = coding.names if coding else ()
    supervised = tuple(name for name in names if name in known and (entry is None or name in entry.known))
    return CaseFiles(
        case_id,
        image,
        prediction,
        taxonomy,
        tuple(names),
        reference,
        coding if reference else None,
        supervised if reference else (),
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


def _find_dataset_json(predictions: Path, references: Path | None, given: Path | None) -> Path | None:
    found = given or (references and find_dataset_json(references)) or find_dataset_json(predictions, levels=0)
    if found is None and references is not None:
        raise UserError(
            "--dataset-json",
            f"found no dataset.json beside {references} or {predictions}",
            "the dataset.json whose label values the references hold",
            "give it with --dataset-json",
        )
    return found
