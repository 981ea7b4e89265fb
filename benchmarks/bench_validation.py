"""Export of the final validation, 32 classes: peak memory and processor time, ours and stock nnU-Net's, side by side.

    python benchmarks/bench_validation.py [--slices 100 400] [--npz]

Both sides get the same stored logits of a phantom's organs (bench_predict.py) and write the label map of one case, with
--npz the probabilities too; only the network is left out. Each measurement is a process of its own; its peak counts
from before the logits are loaded. Stock nnU-Net is measured where the machine has the memory for it: the table says
where it has not. Writes benchmarks/results/validation.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import torch
from bench_predict import low_shape, stored_rows, write_logits
from common import RESULTS, table, verdict, write_result

sys.path.insert(0, str(Path(__file__).parents[1]))
from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.inference.memory import GB, peak_bytes, reset_peak, used_bytes
from nnunetv2_clip.inference.sliding import SlidingWindow
from nnunetv2_clip.labels import LabelTable, nnunet_labels
from tests.inference.conftest import make_plans, random_network

GOAL_BYTES, GOAL_SHARE, GOAL_SLICES = 1e9, 1 / 20, 400
CASE = "case"


def tables() -> tuple[dict, dict]:
    """plans.json and dataset.json of a model of all 32 classes."""
    labels, order = nnunet_labels(LabelTable.of(), UNIVERSAL, UNIVERSAL.names, ignore=False)
    dataset_json = {"channel_names": {"0": "CT"}, "labels": labels, "regions_class_order": order}
    return make_plans(UNIVERSAL.names), {**dataset_json, "numTraining": 1, "file_ending": ".nii.gz"}


def properties_of(size: tuple[int, int, int]) -> dict:
    """What nnU-Net's preprocessing keeps of a CT of 1 mm voxels that lies as its reader wants it."""
    return {
        "spacing": [1.0, 1.0, 1.0],
        "nibabel_stuff": {"original_affine": np.eye(4), "reoriented_affine": np.eye(4)},
        "shape_before_cropping": size,
        "shape_after_cropping_and_before_resampling": size,
        "bbox_used_for_cropping": [[0, length] for length in size],
    }


class StoredLogits(SlidingWindow):
    """In place of the network's: its rows come from a file."""

    folder: Path

    def run(self, num_classes: int, sink, device) -> None:
        self.finds_in_air = False
        for rows in stored_rows(self.folder, self._data.shape[1:], range(num_classes)):
            sink(rows)


def our_export(folder: Path, size: tuple[int, int, int], npz: bool) -> None:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunetv2_clip.inference import case_predictor
    from nnunetv2_clip.training.final_validation import FinalValidation

    plans, dataset_json = tables()
    manager = PlansManager(plans)
    trainer = SimpleNamespace(
        plans_manager=manager,
        configuration_manager=manager.get_configuration("3d_fullres"),
        dataset_json=dataset_json,
        device=torch.device("cpu"),
        inference_allowed_mirroring_axes=None,
    )
    network = random_network(plans["configurations"]["3d_fullres"]["architecture"], UNIVERSAL.names, (), seed=0)
    StoredLogits.folder = folder
    case_predictor.SlidingWindow = StoredLogits
    final = FinalValidation(trainer, network, folder / "ours", npz)
    final.predict(CASE, np.zeros((1, *low_shape(size)), np.float32), properties_of(size))


def stock_export(folder: Path, size: tuple[int, int, int], npz: bool) -> None:
    from nnunetv2.inference.export_prediction import export_prediction_from_logits
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans, dataset_json = tables()
    manager = PlansManager(plans)
    (folder / "stock").mkdir(exist_ok=True)
    export_prediction_from_logits(
        torch.from_numpy(np.load(folder / "logits.npy")),
        properties_of(size),
        manager.get_configuration("3d_fullres"),
        manager,
        dataset_json,
        str(folder / "stock" / CASE),
        npz,
        num_threads_torch=1,
    )


SIDES = {"ours": our_export, "stock": stock_export}


def stock_needs(size: tuple[int, int, int]) -> int:
    """Bytes, by arithmetic: resampled logits and their sigmoid in single precision, the stored logits in half."""
    return len(UNIVERSAL) * (8 * int(np.prod(size)) + 2 * int(np.prod(low_shape(size))))


def measure_side(side: str, folder: Path, size: tuple[int, int, int], npz: bool) -> None:
    """What the process of one measurement does."""
    import nnunetv2_clip.training.final_validation  # noqa: F401

    torch.set_num_threads(1)
    reset_peak()
    before, start = used_bytes(), time.process_time()
    SIDES[side](folder, size, npz)
    print(json.dumps({"peak": peak_bytes() - before, "seconds": time.process_time() - start}))


def in_own_process(side: str, folder: Path, size: tuple[int, int, int], npz: bool) -> dict:
    command = [sys.executable, __file__, "--side", side, "--work", folder, "--slices", size[0], "--plane", size[1]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "nnUNet_def_n_proc": "1"}
    done = subprocess.run([*map(str, command), *(["--npz"] if npz else [])], capture_output=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{side} failed: {done.stderr.decode()[-2000:]}")
    return json.loads(done.stdout.decode().splitlines()[-1])


def differences(folder: Path) -> int:
    """Voxels in which the two label maps differ."""
    import nibabel as nib

    maps = [np.asarray(nib.load(folder / side / f"{CASE}.nii.gz").dataobj) for side in SIDES]
    return int(np.count_nonzero(maps[0] != maps[1]))


def row(size: tuple[int, int, int], npz: bool, work: Path | None) -> list[str]:
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name)
        write_logits(folder, size)
        ours = in_own_process("ours", folder, size, npz)
        cells = [f"{size[0]} x {size[1]} x {size[2]}", f"{ours['peak'] / GB:.2f} GB", f"{ours['seconds']:.0f} s"]
        small = verdict(ours["peak"], GOAL_BYTES, at_most=True)
        needed = stock_needs(size)
        if psutil.virtual_memory().available < 1.1 * needed:
            stock = f"not measured: {needed / GB:.0f} GB by arithmetic, more than there was"
            share = (
                f"1/{needed / ours['peak']:.0f} of the arithmetic: {verdict(ours['peak'] / needed, GOAL_SHARE, True)}"
            )
            return [*cells, stock, "", share, "", small]
        stock = in_own_process("stock", folder, size, npz)
        share = f"1/{stock['peak'] / ours['peak']:.0f}"
        share += f": {verdict(ours['peak'] / stock['peak'], GOAL_SHARE, True)}" if size[0] >= GOAL_SLICES else ""
        peak, seconds = f"{stock['peak'] / GB:.2f} GB", f"{stock['seconds']:.0f} s"
        return [*cells, peak, seconds, share, f"{differences(folder)} voxels", small]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, nargs="+", default=[100, 400], help="of the CTs")
    parser.add_argument("--plane", type=int, default=512, help="rows and columns of the CT")
    parser.add_argument("--npz", action="store_true", help="the probabilities as well")
    parser.add_argument("-w", "--work", type=Path, help="a disk with room for the logits (7 MB a slice)")
    parser.add_argument("-o", type=Path, default=RESULTS, help="folder of the table (default: %(default)s)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        measure_side(args.side, args.work, (args.slices[0], args.plane, args.plane), args.npz)
        return
    rows = [row((slices, args.plane, args.plane), args.npz, args.work) for slices in args.slices]
    header = [
        "CT",
        "ours: peak",
        "CPU",
        "stock: peak",
        "CPU",
        "ours / stock (goal: 1/20 at 400 slices)",
        "label maps differ in",
    ]
    write_result(
        "validation_npz" if args.npz else "validation",
        "Export of the final validation, 32 classes" + (", with probabilities" if args.npz else ""),
        "One case: from logits to the file of the label map, on one thread. The stock export runs in nnUNet_def_n_proc "
        "processes at the same time (8 unless set), ours in the training process.",
        table([*header, "ours below 1 GB"], rows),
        folder=args.o,
    )


if __name__ == "__main__":
    main()
