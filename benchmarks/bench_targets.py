"""Targets of 32 classes: one label map per scale against nnU-Net's expansion to regions in the workers.

    python benchmarks/bench_targets.py

One case of 128^3 and five deep supervision scales. Stock: ConvertSegmentationToRegionsTransform, then
DownsampleSegForDSTransform. Ours: DownsampleSegForDSTransform of the label map; the loss looks classes up on the
training device, chunk by chunk, which is timed apart. Ratios are of processor time. Writes
benchmarks/results/targets.md.
"""

from __future__ import annotations

import argparse

import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from batchgeneratorsv2.transforms.utils.seg_to_regions import ConvertSegmentationToRegionsTransform
from common import measure, table, verdict, write_result

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.labels import LabelTable
from nnunetv2_clip.losses.pair_sums import membership_table

SIZE = 128
SCALES = [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16]
GOAL_TIME, GOAL_BYTES = 300, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="nnU-Net's workers have one thread each")
    torch.set_num_threads(parser.parse_args().threads)
    names, labels = [row.name for row in UNIVERSAL], LabelTable.of()
    torch.manual_seed(0)
    coarse = torch.randint(0, labels.max_value + 1, (1, 1, 16, 16, 16)).float()
    label_map = torch.nn.functional.interpolate(coarse, scale_factor=SIZE / 16)[0].to(torch.int16)

    to_regions = ConvertSegmentationToRegionsTransform([list(labels.values_of(name)) for name in names])
    downsample = DownsampleSegForDSTransform(SCALES)
    stock = lambda: downsample._apply_to_segmentation(to_regions._apply_to_segmentation(label_map))  # noqa: E731
    ours = lambda: downsample._apply_to_segmentation(label_map)  # noqa: E731
    membership = membership_table({name: labels.values_of(name) for name in names})
    look_up = lambda count: [membership[:, :count].t()[:, scale.flatten().int()] for scale in ours_result]  # noqa: E731

    stock_result, ours_result = stock(), ours()
    for ours_scale, stock_scale in zip(look_up(len(names)), stock_result, strict=True):
        assert torch.equal(ours_scale, stock_scale.flatten(1)), "both sides must give the same targets"
    times = [measure(function) for function in (stock, ours)]
    num_bytes = [sum(scale.nbytes for scale in result) for result in (stock_result, ours_result)]
    lookups = {count: measure(lambda count=count: look_up(count), budget_s=5) for count in (5, len(names))}
    time_ratio, byte_ratio = times[0].cpu_s / times[1].cpu_s, num_bytes[0] / num_bytes[1]
    write_result(
        "targets",
        f"Targets of {len(names)} classes, {SIZE}^3, {len(SCALES)} scales",
        table(
            ["in a worker", "nnU-Net, regions", "ours, label maps", "ratio", "goal", "met"],
            [
                ["time", *times, f"{time_ratio:.1f}x", f">= {GOAL_TIME}x", verdict(time_ratio, GOAL_TIME)],
                [
                    "bytes to the training process",
                    *(f"{count / 2**20:.1f} MiB" for count in num_bytes),
                    f"{byte_ratio:.1f}x",
                    f">= {GOAL_BYTES}x",
                    verdict(byte_ratio, GOAL_BYTES),
                ],
            ],
        ),
        "Look-up of all targets at once on the training device, here the CPU (the loss does it chunk by chunk and "
        f"never keeps them): {lookups[5]} for 5 annotated classes, {lookups[len(names)]} for all {len(names)}.",
    )


if __name__ == "__main__":
    main()
