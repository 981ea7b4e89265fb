"""Every table and figure of docs/evaluation.md from synthetic patients, in one command.

    python benchmarks/evaluation_demo.py -o demo_evaluation

Draws patients, gives each the labels of one source dataset, disturbs the truth into the predictions of two models
(also as folds of a cross-validation) and runs the commands of the page in the output folder. The numbers say nothing
about any model.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from pathlib import Path

import nibabel
import numpy as np
from scipy.ndimage import shift
from tqdm import tqdm

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.evaluation.published import PUBLISHED_TABLES, PublishedTable
from nnunetv2_clip.labels import LabelTable, nnunet_labels
from nnunetv2_clip.manifest import CasePresence, Manifest
from nnunetv2_clip.painting import paint
from nnunetv2_clip.phantom.anatomy import make_phantom

PAGE = Path(__file__).parents[1] / "docs" / "evaluation.md"
MODEL = "First__nnUNetPlans__3d_fullres"
NUM_FOLDS = 5
MISSED = 0.2  # of the tumours
FALSE_ALARMS = 0.2  # of the patients known to be free
MODELS = {"first": 0.6, "second": 1.2}  # how far a structure is misplaced, in voxels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", type=Path, required=True, help="output folder, new")
    parser.add_argument("--cases", type=int, default=5, help="patients per source dataset [5]")
    parser.add_argument("--spacing", type=float, default=6.0, help="voxel size in mm [6]")
    args = parser.parse_args()
    args.o.mkdir(parents=True)
    draw_study(args.o, args.cases, args.spacing)
    for block in shell_blocks():
        print(f"\n$ {block}")
        subprocess.run(["bash", "-e", "-c", block], cwd=args.o, check=True)


def shell_blocks() -> list[str]:
    """The commands of the page."""
    return re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def draw_study(folder: Path, cases_per_source: int, spacing_mm: float) -> None:
    """References with manifest, predictions of two models, and a model folder with five validated folds."""
    sources = {"btcv": _classes("btcv"), "msd_liver": ("liver", "liver_tumor"), "ircadb": _classes("ircadb")}
    sources |= {"msd_pancreas": ("pancreas", "pancreas_tumor"), "chaos": ("liver",)}
    cases: dict[str, CasePresence] = {}
    truth: dict[str, tuple[dict, np.ndarray]] = {}
    for number, source in enumerate(name for name in sources for _ in range(cases_per_source)):
        case_id = f"{source}_{number:03d}"
        absent = ("liver_tumor", "kidney_tumor") if source == "chaos" else ()
        cases[case_id] = CasePresence(source, sources[source], absent, group=f"scan_{number}")
        patient = make_phantom(number, (spacing_mm,) * 3, tumours=source != "chaos")
        truth[case_id] = patient.masks, patient.affine
    manifest = Manifest(UNIVERSAL, cases)
    raw = folder / "raw" / "Dataset900_Drawn"
    content = _write_references(raw, truth, manifest)
    seen = {case_id: case for case_id, case in cases.items() if case_id.startswith("ircadb")}
    Manifest(UNIVERSAL, dict(list(seen.items())[:2])).save(folder / "raw/Dataset901_Training/label_presence.json")

    model = folder / "results" / "Dataset900_Drawn" / MODEL
    for number, (case_id, (masks, affine)) in enumerate(tqdm(truth.items(), desc="Predictions")):
        for name, misplaced in MODELS.items():
            painted = paint(_disturb(masks, case_id, misplaced, number), UNIVERSAL)
            targets = [folder / "predictions" / name]
            targets += [model / f"fold_{number % NUM_FOLDS}" / "validation"] if name == "first" else []
            for target in targets:
                _save(painted, affine, target / f"{case_id}.nii.gz")
    (model / "dataset.json").write_text(json.dumps(content))
    (model / "plans.json").write_text(json.dumps(_small_plans()))


def _classes(table: str) -> tuple[str, ...]:
    published: PublishedTable = PUBLISHED_TABLES[table]
    return tuple(name for names in published.columns.values() for name in names)


def _write_references(raw: Path, truth: dict, manifest: Manifest) -> dict:
    """labelsTr in label values, dataset.json and manifest; gives dataset.json."""
    coded = {case_id: _class_sets(masks, manifest.case(case_id).annotated) for case_id, (masks, _) in truth.items()}
    table = LabelTable.of(classes for _, sets in coded.values() for classes in sets)
    for case_id, (positions, sets) in tqdm(coded.items(), desc="References"):
        values = np.array([table.encode(classes) for classes in sets], np.uint8)
        _save(values[positions], truth[case_id][1], raw / "labelsTr" / f"{case_id}.nii.gz")
    labels, order = nnunet_labels(table, UNIVERSAL, manifest.supervised_classes(), ignore=False)
    content = {"channel_names": {"0": "CT"}, "labels": labels, "regions_class_order": order}
    content |= {"numTraining": len(truth), "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(content))
    manifest.save(raw / "label_presence.json")
    return content


def _class_sets(masks: dict, annotated: tuple[str, ...]) -> tuple[np.ndarray, list[frozenset[str]]]:
    """Position of each voxel's set in a list of sets of annotated classes."""
    bits = sum(masks[name].astype(np.int64) << k for k, name in enumerate(annotated))
    values, positions = np.unique(bits, return_inverse=True)
    sets = [frozenset(name for k, name in enumerate(annotated) if value >> k & 1) for value in values]
    return positions.reshape(bits.shape), sets


def _disturb(masks: dict, case_id: str, misplaced: float, seed: int) -> dict:
    """The masks of a model that misplaces structures, misses some tumours and sees some that are not there."""
    rng = np.random.default_rng([seed, int(10 * misplaced)])
    predicted = {}
    for name, mask in masks.items():
        predicted[name] = shift(mask, np.rint(rng.normal(0, misplaced, 3)), order=0)
        if name.endswith("_tumor") and rng.random() < MISSED:
            predicted[name] = np.zeros_like(mask)
    if case_id.startswith("chaos") and rng.random() < FALSE_ALARMS:
        x, y, z = np.argwhere(masks["liver"])[len(np.argwhere(masks["liver"])) // 2]
        predicted["liver_tumor"] = predicted["liver_tumor"].copy()
        predicted["liver_tumor"][x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2] = True
    return predicted


def _save(label_map: np.ndarray, affine: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(label_map, affine), path)


def _small_plans() -> dict:
    """Plans of a small U-Net, for the efficiency table."""
    stages = 4
    kwargs = {
        "n_stages": stages,
        "features_per_stage": [8, 16, 32, 64],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": kwargs,
        "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
    }
    return {"configurations": {"3d_fullres": {"architecture": architecture, "patch_size": [32, 32, 32]}}}


if __name__ == "__main__":
    main()
