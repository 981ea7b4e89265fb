"""Prediction and export of 32 classes, side by side with stock nnU-Net: time and peak memory.

    python benchmarks/bench_predict.py                       # the goals' sizes; the host needs over 24 GB
    python benchmarks/bench_predict.py --without-default     # without the host's default resampling: 20 GB
    python benchmarks/bench_predict.py --size 150 256 256    # a sample; the table says so

Every measurement runs in a process of its own; peak memory is what it takes beyond its state before the work.
Writes benchmarks/results/predict.md, or the file given with -o.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from nnunetv2_clip.msd.tasks import CT_TASKS

FULL_SIZE = (300, 512, 512)  # Z Y X voxels of the output
LOW_SHARE = (1.0, 0.625, 0.625)  # voxels of the logits' grid for each output voxel: 0.8 mm pixels in a grid of 1.28 mm
PATCH = (48, 96, 96)
SLAB = 24  # rows of logits that become final at a time
RESULT = Path(__file__).parent / "results" / "predict.md"
MIB = 2**20
MODULES = (
    "nnunetv2.preprocessing.resampling.resample_torch",
    "nnunetv2.utilities.label_handling.label_handling",
    "nnunetv2_clip.inference.sliding",
    "nnunetv2_clip.inference.streaming",
    "nnunetv2_clip.inference.outputs",
    "nnunetv2_clip.networks.universal",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=FULL_SIZE, metavar=("Z", "Y", "X"), help="of the output")
    parser.add_argument(
        "--ct-size",
        type=int,
        nargs=3,
        default=(160, 256, 256),
        metavar=("Z", "Y", "X"),
        help="voxels of the CT that is predicted as a whole",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("-o", type=Path, default=RESULT, help="the table to write (default: %(default)s)")
    parser.add_argument("--only", default="", help="measure only the rows that begin so, for instance export")
    parser.add_argument("--without-default", action="store_true", help="not the host's default resampling")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # what the process of one measurement does
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        measure_part(args)
        return
    with tempfile.TemporaryDirectory() as work:
        args.work = Path(work)
        if not args.only.startswith("whole"):
            write_logits(args.work, args.size)
        results = {}
        for part in (part for part in PARTS if part.startswith(args.only)):
            if args.without_default and part == DEFAULT_RESAMPLING:
                continue
            print(f"{part} ...", flush=True)
            results[part] = in_own_process(part, args)
            print(json.dumps(results[part]), flush=True)
        difference = compare_exports(args.work)
    if "export, 32 classes" in results and "failed" in results["export, 32 classes"]:
        raise SystemExit("our own export failed: no table")
    text = as_table(args, results, difference)
    print(text)
    args.o.parent.mkdir(exist_ok=True)
    args.o.write_text(text, encoding="utf-8")


def in_own_process(part: str, args: argparse.Namespace) -> dict:
    command = [sys.executable, __file__, "--part", part, "--work", str(args.work), "--threads", str(args.threads)]
    command += ["--size", *map(str, args.size), "--ct-size", *map(str, args.ct_size)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "nnUNet_def_n_proc": str(args.threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        reason = "out of memory" if done.returncode in (-9, 137) else done.stderr.strip().splitlines()[-1:]
        return {"failed": str(reason)}
    return json.loads(lines[-1])


def measure_part(args: argparse.Namespace) -> None:
    import torch

    from nnunetv2_clip.inference.memory import peak_bytes, reset_peak, used_bytes

    torch.set_num_threads(args.threads)
    for name in MODULES:  # importing is no part of the work
        importlib.import_module(name)
    prepare, work = PARTS[args.part]
    prepared = prepare(args)
    reset_peak()
    before, start = used_bytes(), time.process_time()
    more = work(args, prepared) or {}
    seconds = time.process_time() - start  # of this process, on all its threads: other load does not count
    print(json.dumps({"seconds": seconds, "mib": (peak_bytes() - before) / MIB, **more}))


# --- export: logits on disk, as both sides get them -------------------------------------------------------------------


def low_shape(size) -> tuple[int, ...]:
    return tuple(max(2, round(voxels * share)) for voxels, share in zip(size, LOW_SHARE, strict=True))


def write_logits(work: Path, size) -> None:
    """(32, *low) float16: signed distance to each organ of a phantom, in voxels, as a trained network's logits grow."""
    from scipy import ndimage

    from nnunetv2_clip.classes import UNIVERSAL
    from nnunetv2_clip.phantom.anatomy import DEFAULT_BODY_MM, make_phantom

    coarse = 64
    phantom = make_phantom(0, tuple(length / coarse for length in DEFAULT_BODY_MM))
    shape = low_shape(size)
    logits = np.lib.format.open_memmap(work / "logits.npy", "w+", np.float16, (len(UNIVERSAL), *shape))
    for k, name in enumerate(UNIVERSAL.names):
        mask = phantom.masks[name].transpose(2, 1, 0)
        inside, outside = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
        zoom = [new / old for new, old in zip(shape, mask.shape, strict=True)]
        field = ndimage.zoom((inside - outside).astype(np.float32), zoom, order=1, grid_mode=True, mode="nearest")
        logits[k] = np.clip(2 * field, -20, 20)


def nothing(args) -> None:
    return None


def stock_export(args, _prepared) -> None:
    """nnU-Net's export with torch resampling, on all classes at once."""
    import torch
    from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet

    stock_export_with(
        args,
        lambda logits: resample_torch_fornnunet(logits, args.size, (1, 1, 1), (1, 1, 1), num_threads=args.threads),
        torch.from_numpy,
    )


def stock_default_export(args, _prepared) -> None:
    """nnU-Net's export with its default resampling (skimage, class after class, all results kept)."""
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    stock_export_with(
        args,
        lambda logits: resample_data_or_seg_to_shape(logits, args.size, (1, 1, 1), (1, 1, 1), order=1, order_z=0),
        lambda logits: logits,
    )


def stock_export_with(args, resample, load) -> None:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    from nnunetv2_clip.classes import UNIVERSAL
    from nnunetv2_clip.labels import LabelTable, nnunet_labels

    labels, order = nnunet_labels(LabelTable.of(), UNIVERSAL, UNIVERSAL.names, ignore=False)
    labels = {name: tuple(value) if isinstance(value, list) else value for name, value in labels.items()}
    manager = LabelManager(labels, order)
    segmentation = manager.convert_logits_to_segmentation(resample(load(np.load(args.work / "logits.npy"))))
    np.save(args.work / f"{args.part}.npy", np.asarray(segmentation).astype(np.uint8))


def our_export(args, _prepared) -> None:
    export_classes(args, None)


def our_export_of_two(args, _prepared) -> None:
    export_classes(args, ("liver", "liver_tumor"))


def stored_rows(work: Path, shape, channels):
    """Rows of some classes' logits come from disk as they come from the network: a slab at a time, not mapped."""
    import torch

    with open(work / "logits.npy", "rb") as file:
        np.lib.format.read_magic(file), np.lib.format.read_array_header_1_0(file)
        begin, plane = file.tell(), shape[1] * shape[2]
        for first in range(0, shape[0], SLAB):
            count = min(SLAB, shape[0] - first)
            rows = torch.empty((len(channels), count, *shape[1:]))
            for position, k in enumerate(channels):
                file.seek(begin + 2 * (k * shape[0] + first) * plane)
                stored = np.fromfile(file, np.float16, count * plane).reshape(count, *shape[1:])
                rows[position] = torch.from_numpy(stored)
            yield rows


def export_classes(args, names) -> None:
    """Of all classes, or of some."""
    from nnunetv2_clip.classes import UNIVERSAL
    from nnunetv2_clip.inference.masks import Placement
    from nnunetv2_clip.inference.outputs import paint_masks
    from nnunetv2_clip.inference.resampling import axis_maps
    from nnunetv2_clip.inference.streaming import StreamingExport

    order = [row.name for row in UNIVERSAL.subset(names or UNIVERSAL.names)]
    channels = [UNIVERSAL.names.index(name) for name in order]
    shape = low_shape(args.size)
    export = StreamingExport(order, axis_maps(shape, args.size, (1, 1, 1), (1, 1, 1)))
    for rows in stored_rows(args.work, shape, channels):
        export.push(rows)
    masks = export.finish(Placement(tuple(args.size), (0, 1, 2), (False,) * 3, (0, 0, 0)))
    np.save(args.work / f"{args.part}.npy", paint_masks(masks, UNIVERSAL.subset(order)))


def compare_exports(work: Path) -> int:
    """Voxels in which the host's label map (torch resampling) and ours differ; -1 if the host did not finish."""
    ours, stock = work / "export, 32 classes.npy", work / "export, 32 classes, host with torch resampling.npy"
    return int(np.count_nonzero(np.load(ours) != np.load(stock))) if stock.is_file() and ours.is_file() else -1


# --- whole prediction of a CT -----------------------------------------------------------------------------------------


def network_arguments() -> dict:
    import torch

    return {
        "n_stages": 5,
        "features_per_stage": [32, 64, 128, 256, 320],
        "conv_op": torch.nn.Conv3d,
        "kernel_sizes": [[3, 3, 3]] * 5,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * 4,
        "n_conv_per_stage": [2] * 5,
        "n_conv_per_stage_decoder": [2] * 4,
        "conv_bias": True,
        "norm_op": torch.nn.InstanceNorm3d,
        "norm_op_kwargs": {"affine": True},
        "nonlin": torch.nn.LeakyReLU,
    }


def universal_network(names):
    import torch

    from nnunetv2_clip.networks.universal import CLIPUniversalNet

    torch.manual_seed(0)
    backbone = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    network = CLIPUniversalNet(1, len(names), backbone, names, 384, deep_supervision=False, **network_arguments())
    vectors = torch.nn.functional.normalize(torch.randn(len(names), 384), dim=1)
    network.set_classes(vectors, torch.ones(len(names), dtype=torch.bool))
    return network.eval()


def plain_network(num_classes):
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    return PlainConvUNet(1, num_classes=num_classes, deep_supervision=False, **network_arguments()).eval()


class Host:
    """What `SlidingWindow` needs of nnU-Net's predictor."""

    def __init__(self, args):
        from types import SimpleNamespace

        import torch
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        self.predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False)
        self.predictor.configuration_manager = SimpleNamespace(patch_size=list(PATCH))
        self.predictor.plans_manager = SimpleNamespace(plans={})
        self.data = torch.randn((1, *low_shape(args.ct_size)), generator=torch.Generator().manual_seed(0))


def predict_with(args, network, names) -> dict:
    """One network over the CT, with our export."""
    from nnunetv2_clip.inference.masks import Placement
    from nnunetv2_clip.inference.resampling import axis_maps
    from nnunetv2_clip.inference.sliding import SlidingWindow
    from nnunetv2_clip.inference.streaming import StreamingExport

    host = Host(args)
    window = SlidingWindow(host.predictor, [network], host.data)
    export = StreamingExport(names, axis_maps(host.data.shape[1:], args.ct_size, (1, 1, 1), (1, 1, 1)))
    exporting = 0.0

    def push(rows):
        nonlocal exporting
        start = time.process_time()
        export.push(rows)
        exporting += time.process_time() - start

    window.run(len(names), push, host.predictor.device)
    start = time.process_time()
    export.finish(Placement(tuple(args.ct_size), (0, 1, 2), (False,) * 3, (0, 0, 0)))
    return {"export": exporting + time.process_time() - start, "patches": len(window._slicers)}


def universal_of(*names):
    def work(args, network):
        return predict_with(args, network, network.class_names)

    def prepare(args):
        from nnunetv2_clip.classes import UNIVERSAL

        return universal_network(names or UNIVERSAL.names)

    return prepare, work


TASKS = {task.folder: tuple(task.classes) for task in CT_TASKS}


def six_networks(args, _prepared) -> dict:
    """A network for each of the six CT tasks of the Decathlon, one after the other, each with our export."""
    exporting = 0.0
    for names in TASKS.values():
        exporting += predict_with(args, plain_network(len(names)), names)["export"]
    return {"export": exporting}


DEFAULT_RESAMPLING = "export, 32 classes, host with default resampling"
PARTS = {
    "export, 32 classes, host with torch resampling": (nothing, stock_export),
    DEFAULT_RESAMPLING: (nothing, stock_default_export),
    "export, 32 classes": (nothing, our_export),
    "export, 2 classes": (nothing, our_export_of_two),
    "whole pass, 32 classes": universal_of(),
    "whole pass, the 9 classes of the six tasks": universal_of(*(name for task in TASKS.values() for name in task)),
    "whole pass, 2 classes": universal_of("liver", "liver_tumor"),
    "whole pass, six plain networks": (nothing, six_networks),
}


def as_table(args, results: dict, difference: int) -> str:
    from nnunetv2_clip.evaluation.tables import Table

    ours = results.get("export, 32 classes")
    universal = results.get("whole pass, 32 classes")
    rows = []
    for part, result in results.items():
        if "failed" in result:
            rows.append((part, f"failed: {result['failed']}", "", "", ""))
            continue
        base = ours if part.startswith("export") else universal
        factor = f"{result['seconds'] / base['seconds']:.2f}"
        memory = f"{result['mib'] / base['mib']:.2f}"
        share = f"{100 * result['export'] / result['seconds']:.1f} %" if "export" in result else ""
        rows.append((part, f"{result['seconds']:.1f}", factor, f"{result['mib']:.0f}", memory, share))
    header = ("", "CPU seconds", "times ours", "peak MiB", "times ours", "export's share")
    rows = tuple(row + ("",) * (len(header) - len(row)) for row in rows)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "nnunetv2", "numpy", "nnunetv2_clip"))
    sample = "" if tuple(args.size) == FULL_SIZE else f" A sample: the goal is set for {FULL_SIZE}."
    equal = "the host did not finish" if difference < 0 else f"{difference} voxels differ"
    notes = []
    if ours:
        notes.append(
            f"Export: logits of {low_shape(args.size)} to an output of {tuple(args.size)} voxels, the anatomy of a "
            f"phantom.{sample} Host (torch resampling) against ours: {equal}. Goal: 10 times faster, an eighth of the "
            "memory."
        )
        if args.without_default:
            notes.append("The host's default resampling was not measured: it needs more memory than there was.")
    if universal:
        notes.append(
            f"Whole pass: PlainConvUNet (32 base features, patches {PATCH}, no mirroring, random weights) over "
            f"{low_shape(args.ct_size)}, output {tuple(args.ct_size)}; the universal network with all classes is the "
            "unit; goal: six networks take 5.5 times as long as one universal pass."
        )
    notes.append(
        f"No GPU. Load of the machine at the end {os.getloadavg()[0]:.1f}. {processor()}, {args.threads} threads; "
        f"Python {platform.python_version()}, {versions}."
    )
    note = " ".join(notes)
    return Table("Prediction and export", header, rows, note).markdown()


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
