"""Every table and figure of docs/evaluation.md from synthetic patients, in one command.

    python benchmarks/evaluation_demo.py -o demo_evaluation      # about five minutes on one CPU core

Draws patients, gives each the labels of one source dataset, disturbs the truth into the predictions of two models
(those of the first also as the five folds of a cross-validation), trains a small network for the map of decoder
features, and runs the commands of the page in the output folder. index.html there leads to everything.
The numbers say nothing about any model.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
from pathlib import Path

import nibabel
import numpy as np
from scipy.ndimage import shift
from tqdm import tqdm

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.evaluation.paper.published import PUBLISHED_TABLES, PublishedTable
from nnunetv2_clip.labels import ClassMap, LabelTable, nnunet_labels
from nnunetv2_clip.manifest import CasePresence, Manifest
from nnunetv2_clip.pages import TEMPLATES
from nnunetv2_clip.painting import paint
from nnunetv2_clip.phantom.anatomy import Phantom, make_phantom

PAGE = Path(__file__).parents[1] / "docs" / "evaluation.md"
DATASET = "Dataset900_Drawn"
MODEL = "First__nnUNetResEncUNetLPlans_torchres__3d_fullres"
NUM_FOLDS = 5
MISSED = 0.2  # of the tumours
FALSE_ALARMS = 0.3  # of the patients known to be free
MODELS = {"first": 0.6, "second": 1.2}  # how far a structure is misplaced, in voxels
TRAINING_SPACING_MM = "15"
INDEX = """{% extends "base.html.j2" %}
{% block style %}
img { max-width: min(100%, 60rem); }
{% endblock %}
{% block main %}
<ul>{% for page in pages %}<li><a href="{{ page.as_posix() }}">{{ page }}</a></li>{% endfor %}</ul>
{% for picture in pictures %}
<figure><figcaption>{{ picture }}</figcaption><img src="{{ picture.as_posix() }}" alt="{{ picture }}"></figure>
{% endfor %}
{% endblock %}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", type=Path, required=True, help="output folder, new")
    parser.add_argument("--cases", type=int, default=5, help="patients per source dataset [5]")
    parser.add_argument("--spacing", type=float, default=6.0, help="voxel size in mm [6]")
    parser.add_argument("--epochs", type=int, default=8, help="of the small network, 50 steps each [8]")
    args = parser.parse_args()
    args.o.mkdir(parents=True)
    for part in ("raw", "preprocessed", "results"):
        (args.o / part).mkdir()
        os.environ[f"nnUNet_{part}"] = str((args.o / part).resolve())
    os.environ |= {"nnUNet_clip_demo_epochs": str(args.epochs), "nnUNet_clip_demo_iterations": "50"}
    draw_study(args.o, args.cases, args.spacing)
    for block in [*training_commands(), *shell_blocks()]:
        print(f"\n$ {block}", flush=True)
        subprocess.run(["bash", "-e", "-c", block], cwd=args.o, check=True)
    write_index(args.o)
    print(f"Open {args.o / 'index.html'}")


def training_commands() -> list[str]:
    """A small network on coarse voxels, on the labels as they are; one fold."""
    return [
        "nnunetv2_clip embed -d 900 --encoder minilm",
        "nnUNetv2_extract_fingerprint -d 900 -np 1",
        "nnunetv2_clip plan -d 900 -pl small -overwrite_target_spacing " + " ".join([TRAINING_SPACING_MM] * 3),
        "nnUNetv2_preprocess -d 900 -plans_name CLIPSmallPlans -c 3d_fullres -np 1",
        "nnUNetv2_train 900 3d_fullres 0 -tr CLIPUniversalTrainerDemo -p CLIPSmallPlans -device cpu",
    ]


def shell_blocks() -> list[str]:
    """The commands of the page."""
    return re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def write_index(folder: Path) -> None:
    """index.html: a link to every page, and every picture that was made."""
    files = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    files = [path for path in files if path.parts[0] not in ("preprocessed", "raw") and "fold_0" not in path.parts]
    pages = [path for path in files if path.suffix == ".html"]
    pictures = [path for path in files if path.suffix == ".png"]
    index = TEMPLATES.from_string(INDEX).render(
        title="Evaluation of synthetic predictions", pages=pages, pictures=pictures
    )
    (folder / "index.html").write_text(index, encoding="utf-8")


# Source -> classes it annotates, classes its patients are known to be free of.
def _sources() -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    sources = {
        "msd_liver": ("liver", "liver_tumor"),
        "msd_lung": ("lung_tumor",),
        "msd_pancreas": ("pancreas", "pancreas_tumor"),
        "msd_hepaticvessel": ("hepatic_vessel", "hepatic_vessel_tumor"),
        "msd_spleen": ("spleen",),
        "msd_colon": ("colon_tumor",),
        "kits": ("right_kidney", "left_kidney", "kidney_tumor", "kidney_cyst"),
        **{key: _classes(key) for key in ("btcv", "ircadb", "totalsegmentator")},
    }
    free = {
        "chaos": (("liver",), ("liver_tumor", "kidney_tumor")),
        "pancreas_ct": (("pancreas",), ("pancreas_tumor",)),
    }
    return {**{name: (classes, ()) for name, classes in sources.items()}, **free}


def draw_study(folder: Path, cases_per_source: int, spacing_mm: float) -> None:
    """Images and references with manifest, predictions of two models, and a model folder with five validated folds."""
    sources = _sources()
    cases: dict[str, CasePresence] = {}
    truth: dict[str, Phantom] = {}
    names = [name for name in sources for _ in range(cases_per_source)]
    for number, source in enumerate(tqdm(names, desc="Patients")):
        annotated, absent = sources[source]
        case_id = f"{source}_{number:03d}"
        cases[case_id] = CasePresence(source, annotated, absent, group=f"scan_{number}")
        truth[case_id] = make_phantom(number, (spacing_mm,) * 3, tumours=not absent)
    manifest = Manifest(UNIVERSAL, cases)
    content = _write_references(folder / "raw" / DATASET, truth, manifest)
    manifest.save(folder / "preprocessed" / DATASET / "label_presence.json")
    seen = {case_id: case for case_id, case in cases.items() if case.dataset in ("ircadb", "chaos")}
    seen = {case_id: seen[case_id] for case_id in sorted(seen)[:: cases_per_source - 1]}
    Manifest(UNIVERSAL, seen).save(folder / "raw/Dataset901_Training/label_presence.json")

    model = folder / "results" / DATASET / MODEL
    for number, (case_id, patient) in enumerate(tqdm(truth.items(), desc="Predictions")):
        for name, misplaced in MODELS.items():
            painted = paint(_disturb(patient, cases[case_id], misplaced, number), UNIVERSAL)
            targets = [folder / "predictions" / name]
            targets += [model / f"fold_{number % NUM_FOLDS}" / "validation"] if name == "first" else []
            for target in targets:
                _save(painted, patient.affine, target / f"{case_id}.nii.gz")
    (model / "dataset.json").write_text(json.dumps(content))
    (model / "plans.json").write_text(json.dumps({"dataset_name": DATASET, "configurations": {}}))


def _classes(table: str) -> tuple[str, ...]:
    published: PublishedTable = PUBLISHED_TABLES[table]
    return tuple(name for names in published.columns.values() for name in names)


def _write_references(raw: Path, truth: dict[str, Phantom], manifest: Manifest) -> dict:
    """imagesTr, labelsTr in label values, dataset.json and manifest; gives dataset.json."""
    found = {name: _annotated(patient, manifest.case(name).annotated) for name, patient in truth.items()}
    table = LabelTable.of(classes for case in found.values() for classes in case.sets.values())
    for case_id, case in tqdm(found.items(), desc="References"):
        patient = truth[case_id]
        _save(case.remap(table, case_id).astype(np.uint8), patient.affine, raw / "labelsTr" / f"{case_id}.nii.gz")
        _save(patient.image, patient.affine, raw / "imagesTr" / f"{case_id}_0000.nii.gz")
    labels, order = nnunet_labels(table, UNIVERSAL, UNIVERSAL.names, ignore=False)
    content = {"channel_names": {"0": "CT"}, "labels": labels, "regions_class_order": order}
    content |= {"numTraining": len(truth), "file_ending": ".nii.gz"}
    content |= {"overwrite_image_reader_writer": "NibabelIOWithReorient"}
    (raw / "dataset.json").write_text(json.dumps(content))
    manifest.save(raw / "label_presence.json")
    return content


def _annotated(patient: Phantom, annotated: tuple[str, ...]) -> ClassMap:
    return ClassMap.of_masks(patient.image.shape, ((patient.masks[name], {name}) for name in annotated))


def _disturb(patient: Phantom, presence: CasePresence, misplaced: float, seed: int) -> dict:
    """The masks of a model that misplaces structures, misses some tumours and sees some that are not there."""
    rng = np.random.default_rng([seed, int(10 * misplaced)])
    predicted = {}
    for name, mask in patient.masks.items():
        predicted[name] = shift(mask, np.rint(rng.normal(0, misplaced, 3)), order=0)
        if name.endswith("_tumor") and rng.random() < MISSED:
            predicted[name] = np.zeros_like(mask)
    for name in presence.absent:
        if rng.random() < FALSE_ALARMS:
            inside = np.argwhere(patient.masks[UNIVERSAL.find(name).parents[0]])
            x, y, z = inside[len(inside) // 2]
            predicted[name][x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2] = True
    return predicted


def _save(label_map: np.ndarray, affine: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(label_map, affine), path)


if __name__ == "__main__":
    main()
