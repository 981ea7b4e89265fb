"""What forced patches are placed at: one class of the case, by weight, counted wherever it is drawn."""

import multiprocessing
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.training import forced_patches as forced_patches_module
from nnunetv2_clip.training.forced_patches import ClassDraw, ForcedPatches, PatchCounts

REGIONS = {(1, 3): "liver", 2: "spleen", (3,): "liver_tumor"}
EVERYWHERE = (-1, 0, 1, 2, 3)  # nnU-Net's key of all that is annotated, in datasets with an ignore label
NAMES = tuple(REGIONS.values())
VOXEL = [[0, 1, 2, 3]]
ALL = {(1, 3): VOXEL, 2: VOXEL, (3,): VOXEL, EVERYWHERE: VOXEL}


def class_draw(balance=1.0, **weights):
    return ClassDraw(weights or dict.fromkeys(NAMES, 1.0), frozenset({"liver_tumor"}), balance)


def forced_patches(locations=ALL, classes=NAMES, draw=None, counts=None):
    properties = {"class_locations": dict(locations), "spacing": (1, 1, 1)}
    stored = SimpleNamespace(identifiers=["a"], load_case=lambda identifier: ("image", "labels", None, properties))
    return ForcedPatches(stored, REGIONS, {"a": classes}, draw or class_draw(), counts)


def keys(dataset):
    return dataset.load_case("a")[-1]["class_locations"].keys()


def test_a_tumour_has_half_of_the_forced_patches_among_however_many_organs():
    draw = ClassDraw.of([UNIVERSAL.names], np.ones(1), UNIVERSAL, 1.0)
    for organs in (["liver"], ["liver", "spleen", "pancreas", "right_kidney", "left_kidney"]):
        assert draw.shares([*organs, "liver_tumor"]) == pytest.approx([0.5 / len(organs)] * len(organs) + [0.5])
    assert draw.shares(["liver", "liver_tumor", "kidney_cyst"]) == pytest.approx([0.5, 0.25, 0.25])


def test_a_case_without_tumours_or_without_organs_shares_all_by_weight():
    draw = class_draw(liver=1.0, spleen=3.0, liver_tumor=0.1)
    assert draw.shares(["liver", "spleen"]) == pytest.approx([1 / 4, 3 / 4])
    assert draw.shares(["liver_tumor"]) == pytest.approx([1])


def test_the_weight_falls_with_the_root_of_the_chance_that_a_drawn_case_may_show_the_class():
    draw = ClassDraw.of([["liver", "spleen"], ["liver"]], np.array([0.25, 0.75]), UNIVERSAL, 1.0)
    assert draw.weights == pytest.approx({"liver": 1, "spleen": 2})


def test_balance_zero_is_the_hosts_uniform_draw_and_one_half_lies_between():
    weights = {"liver": 1.0, "spleen": 3.0, "liver_tumor": 7.0}
    names = list(weights)
    assert class_draw(0, **weights).shares(names) == pytest.approx([1 / 3] * 3)
    between = (1 / 3 + np.array([1 / 8, 3 / 8, 1 / 2])) / 2
    assert class_draw(0.5, **weights).shares(names) == pytest.approx(between)


def test_a_lobe_with_a_volume_of_its_own_counts_as_an_organ():
    inner = {row.name for row in UNIVERSAL if row.lies_in_organ}
    assert inner == {name for name in UNIVERSAL.names if "tumor" in name} | {"kidney_cyst", "hepatic_vessel"}


def test_the_loader_sees_one_class_where_it_goes_through_them_and_all_where_it_asks_for_one():
    np.random.seed(0)
    dataset = forced_patches()
    drawn = Counter(key for _ in range(600) for key in keys(dataset))
    assert set(drawn) == set(REGIONS) and all(len(keys(dataset)) == 1 for _ in range(20))
    assert drawn[(3,)] == pytest.approx(300, abs=50)
    locations = dataset.load_case("a")[-1]["class_locations"]
    assert all(locations[key] == VOXEL for key in ALL)


def test_what_the_case_does_not_teach_is_no_reason_for_a_patch():
    assert {key for _ in range(50) for key in keys(forced_patches(classes=("spleen",)))} == {2}
    assert keys(forced_patches(classes=())) == [EVERYWHERE]
    assert keys(forced_patches({(1, 3): VOXEL, 2: [], (3,): []}, classes=("spleen",))) == []


def draw_many(dataset):
    for _ in range(200):
        list(keys(dataset))


class Stored:
    """A dataset that can be pickled."""

    identifiers = ("a",)

    def load_case(self, identifier):
        return None, None, None, {"class_locations": ALL}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_count_into_memory_that_the_training_reads(method, monkeypatch):
    context = multiprocessing.get_context(method)
    monkeypatch.setattr(forced_patches_module, "Array", context.Array)
    counts = PatchCounts(len(REGIONS))
    dataset = ForcedPatches(Stored(), REGIONS, {"a": ("spleen", "liver_tumor")}, class_draw(), counts)
    workers = [context.Process(target=draw_many, args=(dataset,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    liver, spleen, tumor = counts.since_last()
    assert liver == 0 and spleen + tumor == 400 and min(spleen, tumor) > 100
    assert counts.since_last().tolist() == [0, 0, 0]
    counts.add(1)
    assert counts.since_last().tolist() == [0, 1, 0]
