"""What each class has got: counted by pair, meaned by epoch, written without NaN."""

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

from nnunetv2_clip.files import read_json
from nnunetv2_clip.losses.masked import Losses
from nnunetv2_clip.networks.pairs import Pairs
from nnunetv2_clip.training import class_log
from nnunetv2_clip.training.class_log import ClassCounts
from nnunetv2_clip.training.progress_picture import dead_classes

CLASSES = ("liver", "spleen", "aorta")
NAN = float("nan")


def add(counts, classes, losses, known=None, probability=None, target=None):
    """One step with pairs of case 0."""
    pairs = Pairs(torch.zeros(len(classes), dtype=torch.long), torch.tensor(classes))
    known = torch.tensor(known or [True] * len(classes))
    voxels = [torch.tensor(values or [0.0] * len(classes)) for values in (probability, target)]
    counts.add(pairs, Losses(torch.tensor(0.0), torch.tensor(losses), known, *voxels))


def test_an_epoch_counts_known_pairs_and_means_their_losses():
    counts = ClassCounts(3, torch.device("cpu"))
    add(counts, [0, 2], [1.0, 5.0])
    add(counts, [0, 0, 1], [2.0, 6.0, 9.0], [True, True, False])  # the last has no known voxel
    epoch = counts.end_epoch()
    assert epoch[class_log.SUPERVISED] == [3, 0, 1]
    assert epoch[class_log.CLASS_LOSS] == pytest.approx([3, NAN, 5], nan_ok=True)


def test_the_next_epoch_begins_anew():
    counts = ClassCounts(3, torch.device("cpu"))
    add(counts, [0], [1.0])
    counts.end_epoch()
    add(counts, [2], [4.0])
    epoch = counts.end_epoch()
    assert epoch[class_log.SUPERVISED] == [0, 0, 1]
    assert epoch[class_log.CLASS_LOSS] == pytest.approx([NAN, NAN, 4], nan_ok=True)


def test_the_predicted_share_is_that_of_the_patches_that_hold_the_class():
    counts = ClassCounts(3, torch.device("cpu"))
    add(counts, [0, 0, 1], [1.0, 1.0, 1.0], probability=[30.0, 500.0, 9.0], target=[40.0, 0.0, 0.0])
    add(counts, [0, 2], [1.0, 1.0], probability=[10.0, 0.5], target=[40.0, 100.0])
    epoch = counts.end_epoch()
    assert epoch[class_log.PREDICTED] == pytest.approx([0.5, NAN, 0.005], nan_ok=True)


def count_on_rank(number, store, queue):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=2)
    counts = ClassCounts(3, torch.device("cpu"))
    add(counts, [0, 1][: number + 1], [1.0, 4.0][: number + 1])
    counts.forced.add(number)
    queue.put(counts.end_epoch())
    dist.barrier()
    dist.destroy_process_group()


def test_every_rank_gets_the_counts_and_means_of_all(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    ranks = [context.Process(target=count_on_rank, args=(number, tmp_path / "store", queue)) for number in range(2)]
    for process in ranks:
        process.start()
    for epoch in [queue.get(timeout=120) for _ in ranks]:
        assert epoch[class_log.SUPERVISED] == [2, 1, 0] and epoch[class_log.FORCED] == [1, 1, 0]
        assert epoch[class_log.CLASS_LOSS] == pytest.approx([1, 4, NAN], nan_ok=True)
    for process in ranks:
        process.join(timeout=60)


LOG = {
    class_log.DICE: [[0.1, 0.2, NAN], [0.5, NAN, 0.75]],
    class_log.CLASS_LOSS: [[1.0, NAN, NAN], [0.25, NAN, NAN]],
    class_log.SUPERVISED: [[3, 0, 0], [4, 0, 0]],
    class_log.FORCED: [[1, 0, 0], [0, 0, 2]],
    class_log.PREDICTED: [[0.001, 0.5, 0.001], [0.9, 0.02, NAN]],
    "train_losses": [1.0, NAN],
    "val_losses": [2.0, 3.0],
}


def test_the_last_epoch_is_printed_with_all_patches_so_far_and_a_warning_without_any():
    trained = np.array([True, True, True])
    _, liver, spleen, aorta = class_log.lines(LOG, CLASSES, trained, known=("aorta",))
    assert liver.split() == ["liver", "0.500", "0.250", "7", "1"]
    assert spleen.split()[:5] == ["spleen", "nan", "nan", "0", "0"] and "not once yet" in spleen
    assert aorta.split() == ["aorta", "0.750", "nan", "0", "2"], "the old model knew it: it needs no patch"
    assert len(list(class_log.lines(LOG, CLASSES, np.array([False, True, False]), ()))) == 2


def test_a_class_whose_channel_is_empty_is_called_dead_everywhere(tmp_path, monkeypatch):
    log = {**LOG, class_log.PREDICTED: [[0.5, 0.5, NAN], [0.009, 0.01, NAN], [NAN, 0.011, 0.001]]}
    _, liver, spleen, aorta = class_log.lines(log, CLASSES, np.array([True] * 3), ())
    assert "WARNING: dead" in aorta and "dead" not in liver + spleen
    drawn = []
    monkeypatch.setattr(class_log, "draw_progress", lambda *arguments: drawn.append(arguments[-1].tolist()))
    class_log.write(tmp_path, log, CLASSES, np.array([True] * 3), 3)
    assert drawn == [[False, False, True]]
    curves = read_json(tmp_path / class_log.CURVES_FILE, "")
    assert dead_classes(curves) == ["liver", "aorta"]  # the liver was when it was last there
    assert dead_classes({"classes": list(CLASSES)}) == []  # a log of an older version


def test_the_curves_are_json_without_nan(tmp_path):
    class_log.write(tmp_path, LOG, CLASSES, np.array([True, False, True]), 2)
    curves = read_json(tmp_path / class_log.CURVES_FILE, "")
    assert curves["dice"] == [[0.1, 0.2, None], [0.5, None, 0.75]]
    assert curves["class_loss"][1] == [0.25, None, None]
    for key in ("supervised_patches", "forced_patches"):
        assert curves[key] == LOG[key]
    assert (curves["train_loss"], curves["val_loss"]) == ([1, None], [2, 3])
    assert (curves["classes"], curves["epochs"]) == (list(CLASSES), 2)
    assert (tmp_path / class_log.PICTURE_FILE).is_file()


def test_the_log_of_another_trainer_is_filled_up():
    log = {"train_losses": [1.0, 2.0]}
    class_log.fill_up(log, 3, 2)
    assert log[class_log.SUPERVISED] == log[class_log.FORCED] == [[0, 0, 0]] * 2
    assert np.isnan(log[class_log.CLASS_LOSS]).all() and np.shape(log[class_log.CLASS_LOSS]) == (2, 3)
