"""The whole chain on one real CT: its labels split into three partly labelled datasets, one model, Dice per class.

    python benchmarks/real_ct.py --ct-folder FOLDER [--epochs 20 --iterations 100] [--work FOLDER]

FOLDER holds ct.nii.gz and totalsegmentator_labels.nii.gz (labels of the TotalSegmentator task `total`, version 2).
The model is trained and scored on this one CT: the figures show that partial labels are learned together, not how well
the model generalises. Writes benchmarks/results/real_ct.md.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import resource
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import yaml

RESULTS = Path(__file__).parent / "results" / "real_ct.md"
DATASET, PLANS, TRAINER = "950", "CLIPSmallPlans", "CLIPUniversalTrainerDemo"
# Label values of TotalSegmentator v2 -> our classes, as three hospitals might have drawn them.
TABLES = {
    "upper_abdomen": {1: "spleen", 5: "liver", 4: "gallbladder", 6: "stomach", 7: "pancreas", 15: "esophagus"},
    "kidneys_and_vessels": {
        2: "right_kidney",
        3: "left_kidney",
        8: "right_adrenal_gland",
        9: "left_adrenal_gland",
        52: "aorta",
        63: "postcava",
        64: "portal_and_splenic_vein",
    },
    "bowel_and_lungs": {
        **dict.fromkeys((10, 11), "left_lung"),
        **dict.fromkeys((12, 13, 14), "right_lung"),
        18: "intestine",
        19: "duodenum",
        20: "colon",
    },
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ct-folder", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("real_ct_work"))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=100)
    args = parser.parse_args()
    if not (args.ct_folder / "ct.nii.gz").is_file():
        print(f"skipped: {args.ct_folder} has no ct.nii.gz")
        return 0
    work = args.work.resolve()
    environment = prepare(args.ct_folder.resolve(), work, args.epochs, args.iterations)
    clock = Clock()
    for command in commands(work):
        print("$", *command, flush=True)
        script = Path(sys.executable).parent / command[0]
        subprocess.run([script, *command[1:]], check=True, env=environment)
        if command[0] == "nnUNetv2_train":
            clock.stop()
    write_table(work, clock, args)
    return 0


class Clock:
    """Wall-clock and processor time of the children up to `stop` (conversion, planning, preprocessing, training)."""

    def __init__(self):
        self.start = time.time()

    def stop(self) -> None:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.wall_min, self.cpu_min = (time.time() - self.start) / 60, (usage.ru_utime + usage.ru_stime) / 60


def prepare(ct_folder: Path, work: Path, epochs: int, iterations: int) -> dict:
    """The three tables, the folders of nnU-Net and the environment of the commands."""
    environment = {
        **os.environ,
        "nnUNet_clip_demo_epochs": str(epochs),
        "nnUNet_clip_demo_iterations": str(iterations),
        "nnUNet_n_proc_DA": "1",
        "nnUNet_def_n_proc": "2",
    }
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (work / name).mkdir(parents=True, exist_ok=True)
        environment[name] = str(work / name)
    for name, values in TABLES.items():
        table = {
            "name": name,
            "images": "images/{case}.nii.gz",
            "labels": "labels/{case}.nii.gz",
            "values": values,
            "other_values": "background",
        }
        (work / f"{name}.yaml").write_text(yaml.safe_dump(table))
    for folder, file in (("images", "ct.nii.gz"), ("labels", "totalsegmentator_labels.nii.gz")):
        (work / folder).mkdir(exist_ok=True)
        link = work / folder / "ct.nii.gz"
        link.unlink(missing_ok=True)
        link.symlink_to(ct_folder / file)
    return environment


def commands(work: Path) -> list[list[str]]:
    """What a user would type."""
    raw, model = work / "nnUNet_raw" / f"Dataset{DATASET}_RealCT", ["3d_fullres"]
    named = [text for name in TABLES for text in ("--source", f"custom={work / name}.yaml")]
    return [
        ["nnunetv2_clip", "convert", "-d", DATASET, "--name", "RealCT", "--keep-copies", *named],
        ["nnunetv2_clip", "embed", "-d", DATASET, "--encoder", "minilm"],
        ["nnUNetv2_extract_fingerprint", "-d", DATASET, "-np", "1"],
        ["nnunetv2_clip", "plan", "-d", DATASET, "-pl", "small", "-gpu_memory_target", "0.1"],
        ["nnUNetv2_preprocess", "-d", DATASET, "-plans_name", PLANS, "-c", "3d_fullres", "-np", "1"],
        ["nnUNetv2_train", DATASET, *model, "all", "-tr", TRAINER, "-p", PLANS, "-device", "cpu"],
        ["nnUNetv2_predict", "-i", f"{raw}/imagesTr", "-o", f"{work}/predictions", "-d", DATASET, "-c", *model]
        + ["-f", "all", "-tr", TRAINER, "-p", PLANS, "-device", "cpu", "-npp", "1", "-nps", "1"],
        [
            "nnunetv2_clip",
            "evaluate",
            "-ref",
            f"{raw}/labelsTr",
            "-pred",
            f"{work}/predictions",
            "-o",
            f"{work}/scores",
        ],
    ]


def write_table(work: Path, clock: Clock, args: argparse.Namespace) -> None:
    """benchmarks/results/real_ct.md from the evaluation."""
    import torch

    from nnunetv2_clip import __version__
    from nnunetv2_clip.evaluation.results import Evaluation

    evaluation = Evaluation.load(work / "scores")
    rows = sorted(
        (pair.class_name, pair.dataset, pair.metrics["Dice"], pair.metrics["NSD"]) for pair in evaluation.complete_pairs
    )
    missing = [name for name, _, dice, _ in rows if math.isnan(dice)]  # neither in the reference nor predicted
    rows = [row for row in rows if row[0] not in missing]
    mean = sum(dice for _, _, dice, _ in rows) / len(rows)
    lines = [
        "# One real CT, its labels split into three partly labelled datasets",
        "",
        f"`python benchmarks/real_ct.py --ct-folder FOLDER --epochs {args.epochs} --iterations {args.iterations}`",
        "",
        "Trained and scored on the same CT (122 x 101 x 30 voxels of 3 mm): shows that one network learns all classes",
        "from three partial label sets, not how well it generalises. TotalSegmentator made the labels, not a person.",
        "",
        f"- mean Dice over {len(rows)} annotated classes: **{mean:.3f}**",
        f"- annotated, but not in this CT: {', '.join(missing) or 'none'}",
        f"- conversion, planning, preprocessing and training: {clock.wall_min:.1f} min wall clock, "
        f"{clock.cpu_min:.1f} min processor time (other programs ran beside)",
        f"- nnunetv2_clip {__version__}, nnunetv2 {version('nnunetv2')}, torch {torch.__version__}, Python "
        f"{platform.python_version()}, {os.cpu_count()} CPU cores ({platform.machine()}), no GPU, {date.today()}",
        "",
        "| class | annotated in | Dice | NSD |",
        "|---|---|---|---|",
        *(f"| {name} | {dataset} | {dice:.3f} | {nsd:.3f} |" for name, dataset, dice, nsd in rows),
        "",
    ]
    RESULTS.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
