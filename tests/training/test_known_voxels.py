"""Incomplete classes: what was drawn is true, what cannot be is negative, all else gives exactly nothing."""

import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.labels import unknown_of
from nnunetv2_clip.losses.masked import SMOOTH, MaskedLoss
from nnunetv2_clip.losses.pair_sums import membership_table
from nnunetv2_clip.manifest import CasePresence, Manifest
from nnunetv2_clip.networks.pairs import Pairs
from nnunetv2_clip.training.exclusion import ExclusionLoss, exclusive_classes
from nnunetv2_clip.training.known_voxels import KnownVoxels, known_values

# Label values: 1 liver, 2 spleen, 3 tumour in liver, 4 tumour without organ, 5 hepatic vessel in liver, 6 ignore;
# 7 spleen where the liver is unknown, 8 and 9 background where the spleen or the liver is unknown.
LABELS = {
    "background": 0,
    "liver": [1, 3, 5],
    "spleen": [2, 7],
    "liver_tumor": [3, 4],
    "hepatic_vessel": [5],
    "ignore": 6,
}
CLASSES = ("liver", "spleen", "liver_tumor", "hepatic_vessel")
SETS = {0: set(), 1: {"liver"}, 2: {"spleen"}, 3: {"liver", "liver_tumor"}, 4: {"liver_tumor"}}
SETS |= {5: {"liver", "hepatic_vessel"}, 6: None, 7: {"spleen"} | unknown_of(["liver"])}
SETS |= {8: unknown_of(["spleen"]), 9: unknown_of(["liver"])}
UNKNOWN = {"liver": [7, 9], "spleen": [8]}
IGNORE = 6
CASES = {
    "in_organ": CasePresence("a", ("liver", "spleen"), incomplete=("liver_tumor",)),
    "tumour_alone": CasePresence("a", (), incomplete=("liver_tumor",)),
    "beside_spleen": CasePresence("a", ("spleen",), incomplete=("liver", "liver_tumor")),
    "whole": CasePresence("a", ("liver", "liver_tumor")),
    "unlabelled": CasePresence("a", ()),
    "two_readers": CasePresence("a", ("liver", "spleen"), incomplete=("liver_tumor",)),
}
# The label values that a case of these states can hold, and, of each incomplete class, the values that are known.
SHOWN = {"in_organ": [0, 1, 2, 3], "tumour_alone": [0, 4], "beside_spleen": [0, 1, 2, 3], "whole": [0, 1, 3]}
SHOWN |= {"unlabelled": [0], "two_readers": [0, 1, 2, 3, 7, 8, 9]}
KNOWN = {
    # in the liver where it was drawn, and everywhere where no liver can be
    **dict.fromkeys([("in_organ", "liver_tumor"), ("two_readers", "liver_tumor")], {0, 2, 3, 4, 7, 8}),
    ("tumour_alone", "liver_tumor"): {3, 4},  # nothing rules it out anywhere
    ("beside_spleen", "liver"): {1, 2, 3, 5, 7},  # drawn, or spleen
    ("beside_spleen", "liver_tumor"): {2, 3, 4, 7},  # the liver may go on in the background
}


def known_in(case, class_name):
    """The label values that are known; of complete classes all but those that say otherwise."""
    return KNOWN.get((case, class_name), set(range(10)) - {IGNORE} - set(UNKNOWN.get(class_name, ())))


def table(name):
    return known_values(CASES[name], CLASSES, SETS, UNIVERSAL)


@pytest.mark.parametrize(("name", "class_name"), KNOWN)
def test_negative_is_only_what_the_case_rules_out(name, class_name):
    row = table(name)[CLASSES.index(class_name)]
    assert {value for value in range(10) if row[value]} == KNOWN[name, class_name]


def test_all_is_known_of_classes_in_another_state():
    unknown = [(CLASSES[k], v) for k, v in (~table("in_organ")[[0, 1]]).nonzero().tolist()]
    assert unknown == [("liver", 6), ("liver", 7), ("liver", 9), ("spleen", 6), ("spleen", 8)]


def test_another_lesion_that_is_absent_does_not_make_an_organ_healthy():
    case = CasePresence("a", ("liver",), absent=("hepatic_vessel_tumor",), incomplete=("liver_tumor",))
    assert not known_values(case, CLASSES, SETS, UNIVERSAL)[2, 1]


def test_an_absent_organ_holds_no_lesion():
    case = CasePresence("a", (), absent=("right_kidney", "left_kidney"), incomplete=("kidney_tumor",))
    assert known_values(case, ("kidney_tumor",), {0: set(), 1: {"kidney_tumor"}}, UNIVERSAL).all()


def test_a_pseudo_label_rules_out_nothing():
    sure = CasePresence("a", ("spleen",), incomplete=("liver",))
    guessed = CasePresence("a", (), incomplete=("liver",), pseudo={"spleen": 0.5})
    assert known_values(sure, CLASSES, SETS, UNIVERSAL)[0, 2]
    assert not known_values(guessed, CLASSES, SETS, UNIVERSAL)[0, 2]


def drawn_batch(names, shape=(2, 4, 6)):
    generator = torch.Generator().manual_seed(0)
    label_map = torch.zeros(len(names), 1, *shape, dtype=torch.int16)
    for case, name in enumerate(names):
        values = torch.tensor(SHOWN[name], dtype=torch.int16)
        label_map[case, 0] = values[torch.randint(len(values), shape, generator=generator)]
    label_map[:, :, 0, 0] = IGNORE
    return label_map


def pairs_of(names):
    manifest = Manifest(UNIVERSAL, CASES)
    pairs = Pairs.of(torch.from_numpy(manifest.weights(names, CLASSES) > 0).nonzero())
    return replace(pairs, known=KnownVoxels(manifest, LABELS, UNKNOWN).of(names, pairs))


def plain_loop(scales, label_maps, pairs, names, scale_weights, batch_dice, weights):
    """Voxel by voxel, as the definition reads."""
    total = 0.0
    for logits, label_map, scale_weight in zip(scales, label_maps, scale_weights, strict=True):
        entropies, counts, sums = [], [], []
        for p, (case, k) in enumerate(pairs):
            entropy, overlap, size, target_sum, count = 0.0, 0.0, 0.0, 0.0, 0
            for x, value in zip(logits[p].flatten().tolist(), label_map[case].flatten().tolist(), strict=True):
                if value not in known_in(names[case], CLASSES[k]):
                    continue
                target = float(CLASSES[k] in SETS[value])
                s = 1 / (1 + math.exp(-x))
                entropy -= target * math.log(s) + (1 - target) * math.log(1 - s)
                overlap, size = overlap + s * target, size + s + target
                target_sum, count = target_sum + target, count + 1
            entropies.append(entropy), counts.append(count), sums.append((overlap, size, target_sum))
        losses = []
        for p, (_, k) in enumerate(pairs):
            own = [(q, 1 if weights is None else weights[q]) for q in range(len(pairs)) if q == p or pairs[q][1] == k]
            own = own if batch_dice else [(p, 1)]
            overlap, size, target = (sum(w * sums[q][i] for q, w in own) for i in range(3))
            dice = 1 - (2 * overlap + SMOOTH) / (size + SMOOTH) if target > 0 else 0
            losses.append(entropies[p] / counts[p] + dice if counts[p] else 0.0)
        w = [1.0] * len(pairs) if weights is None else weights
        total += (
            scale_weight
            * sum(a * b for a, b in zip(w, losses, strict=True))
            / sum(a for a, count in zip(w, counts, strict=True) if count)
        )
    return total


@pytest.mark.parametrize(("batch_dice", "weighted"), product((False, True), repeat=2))
def test_loss_and_gradient_equal_a_plain_loop(batch_dice, weighted):
    names = ["in_organ", "tumour_alone", "beside_spleen", "whole", "unlabelled", "two_readers"]
    label_map, pairs = drawn_batch(names), pairs_of(names)
    listed = pairs.on_cpu.tolist()
    assert [0, 2] in listed and [4, 2] not in listed
    weights = torch.linspace(0.25, 1, len(pairs), dtype=torch.float64) if weighted else None
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(len(pairs), 2, 4, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    scales, maps, scale_weights = (
        [logits, logits[..., ::2, ::2]],
        [label_map, label_map[..., ::2, ::2]],
        (0.75, 0.25),
    )
    loss = MaskedLoss(membership_table(LABELS, UNKNOWN), IGNORE, scale_weights, batch_dice)
    value = loss(scales, maps, replace(pairs, weights=weights))
    listed_weights = weights.tolist() if weighted else None
    loop = plain_loop(scales, maps, listed, names, scale_weights, batch_dice, listed_weights)
    assert value.item() == pytest.approx(loop, abs=1e-12)

    value.backward()
    for p, (case, k) in enumerate(listed):
        known = known_in(names[case], CLASSES[k])
        is_known = torch.isin(label_map[case, 0], torch.tensor(sorted(known), dtype=torch.int16))
        assert (logits.grad[p][~is_known] == 0).all(), "an unknown voxel gets exactly nothing"
        assert (logits.grad[p][is_known] != 0).all()
        positive = torch.isin(label_map[case, 0], torch.tensor([v for v in known if CLASSES[k] in SETS[v]]))
        assert (logits.grad[p][positive & is_known] < 0).all()
    nudged = logits.detach().clone()
    step, (p, *voxel) = 1e-6, (listed.index([0, 2]), *(label_map[0, 0] == 3).nonzero()[0].tolist())
    nudged[(p, *voxel)] += step
    nudged_loop = plain_loop(
        [nudged, nudged[..., ::2, ::2]], maps, listed, names, scale_weights, batch_dice, listed_weights
    )
    assert (nudged_loop - loop) / step == pytest.approx(logits.grad[(p, *voxel)].item(), abs=1e-6)


def test_a_batch_without_incomplete_classes_goes_the_faster_way():
    manifest, names = Manifest(UNIVERSAL, CASES), ["whole", "unlabelled"]
    pairs = Pairs.of(torch.tensor([[0, 0], [0, 2]]))
    assert KnownVoxels(manifest, LABELS).of(names, pairs) is None
    assert KnownVoxels(manifest, LABELS, UNKNOWN).of(names, pairs) is not None


def test_some_pairs_keep_what_is_known_of_them():
    pairs = pairs_of(["whole", "in_organ"])
    assert torch.equal(pairs[torch.tensor([0, 4])].known, pairs.known[[0, 4]])


def test_exclusion_supervises_an_incomplete_class_as_the_masked_loss_does():
    """The spleen, which the case does not annotate, has its known negatives beside that."""
    names = ["tumour_alone", "whole"]
    label_map, pairs = drawn_batch(names), pairs_of(names)
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(len(pairs) + 1, 2, 4, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    arguments = membership_table(LABELS, UNKNOWN), IGNORE, (1.0,)
    alone = logits[:-1].detach().requires_grad_()
    MaskedLoss(*arguments)([alone], [label_map], pairs).backward()
    everything = torch.ones(1, 10, dtype=torch.bool)
    more = Pairs(
        torch.cat((pairs.cases, torch.tensor([1]))),
        torch.cat((pairs.classes, torch.tensor([1]))),
        annotated=torch.tensor([True] * len(pairs) + [False]),
        known=torch.cat((pairs.known, everything)),
    )
    ExclusionLoss(exclusive_classes(CLASSES, UNIVERSAL), *arguments)([logits], [label_map], more).backward()
    assert torch.equal(logits.grad[:-1], alone.grad)
    in_liver = torch.isin(label_map[1, 0], torch.tensor([1, 3], dtype=torch.int16))
    assert ((logits.grad[-1] > 0) == in_liver).all()


def test_a_dataset_of_an_older_version_trains_as_before():
    folder = Path(__file__).parents[1] / "dataset_schema_1"
    manifest = Manifest.load(folder / "label_presence.json")
    labels = json.loads((folder / "dataset.json").read_text())["labels"]
    names = list(manifest.cases)
    pairs = Pairs.of(torch.tensor([[case, k] for case in range(len(names)) for k in range(2)]))
    assert KnownVoxels(manifest, labels).of(names, pairs) is None
