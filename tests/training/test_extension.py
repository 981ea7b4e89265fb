"""What the plans say about the start of a training, and which weights follow from it."""

import numpy as np
import pytest
import torch

from nnunetv2_clip.choices import FINE_TUNE, FROZEN, TRANSFER
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.networks.pairs import Pairs
from nnunetv2_clip.text.table import TextTable
from nnunetv2_clip.training.extension import Extension, read_start, start_weights, text_file
from tests.networks.test_universal import CLASSES, make_network

OLD = {
    "encoder.w": torch.tensor([1.0]),
    "feature_layers.0.w": torch.tensor([2.0]),
    "controller.w": torch.tensor([3.0]),
    "class_embedding.seg_layers.text_embedding": torch.zeros(2, 3),
    "extensions.0.feature_layers.0.w": torch.tensor([4.0]),
    "extensions.0.controller.w": torch.tensor([5.0]),
}


def test_a_second_frozen_extension_keeps_the_first_and_starts_as_the_network_itself():
    start = start_weights(OLD, FROZEN, 2)
    assert {key: float(value) for key, value in start.items()} == {
        "encoder.w": 1,
        "feature_layers.0.w": 2,
        "controller.w": 3,
        "extensions.0.feature_layers.0.w": 4,
        "extensions.0.controller.w": 5,
        "extensions.1.feature_layers.0.w": 2,
        "extensions.1.controller.w": 3,
    }


def test_fine_tuning_keeps_all_parts_and_transfer_none():
    assert set(start_weights(OLD, FINE_TUNE, 1)) == {key for key in OLD if ".seg_layers." not in key}
    assert set(start_weights(OLD, TRANSFER, 0)) == {"encoder.w", "feature_layers.0.w", "controller.w"}


def test_only_the_newest_part_of_a_frozen_model_learns_and_only_its_classes_give_loss():
    extension = Extension(FROZEN, "old", "0", ("liver", "sacrum"), (("sacrum",), ("femur", "rib")))
    assert [key for key in start_weights(OLD, FROZEN, 2) if extension.learns(key)] == [
        "extensions.1.feature_layers.0.w",
        "extensions.1.controller.w",
    ]
    assert extension.gives_loss(("rib", "liver", "sacrum", "femur")).tolist() == [True, False, False, True]
    fine = Extension(FINE_TUNE, "old", "0", ("liver",), (("sacrum",),))
    assert fine.learns("encoder.w")
    assert fine.gives_loss(("rib", "liver")).all()


def test_ten_parts_are_told_apart():
    extension = Extension(FROZEN, "old", "0", (), tuple((f"class_{n}",) for n in range(1, 12)))
    assert extension.learns("extensions.10.controller.w")
    assert not extension.learns("extensions.1.controller.w")
    assert not extension.learns("extensions.0.controller.w")


def test_plans_give_back_what_was_written_and_damage_is_named():
    extension = Extension(FROZEN, "old", "0", ("liver",), (("sacrum",),))
    assert Extension.of_plans({"nnunetv2_clip": {"extension": extension.to_json()}}) == extension
    assert Extension.of_plans({}) is None
    assert Extension.of_plans({"nnunetv2_clip": {"text": {}}}) is None
    for damage in ({"mode": "melted"}, {"parts": []}, {"known": None}):
        entry = {**extension.to_json(), **damage}
        with pytest.raises(UserError, match="is damaged"):
            Extension.of_plans({"plans_name": "p", "nnunetv2_clip": {"extension": entry}})


@pytest.mark.parametrize("mode", [FROZEN, FINE_TUNE])
def test_frozen_layers_keep_running_statistics_and_drop_nothing(mode):
    layers = {"norm_op": torch.nn.BatchNorm3d, "dropout_op": torch.nn.Dropout3d, "dropout_op_kwargs": {"p": 0.5}}
    network = make_network(extensions=(("spleen",),), **layers).train()
    Extension(mode, "old", "0", ("liver",), (("spleen",),)).keep_still(network)
    image, pairs = torch.randn(2, 1, 8, 8, 8), Pairs.of(torch.tensor([[0, 0], [1, 1]]))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    first, second = (network(image, pairs)[0] for _ in range(2))
    assert torch.equal(first, second) == (mode == FROZEN)
    same = all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert same == (mode == FROZEN)
    assert network.training


def test_a_missing_or_damaged_start_names_the_remedy(tmp_path):
    with pytest.raises(UserError, match="does not exist.*extend"):
        read_start(tmp_path / "gone.pth")
    (tmp_path / "half.pth").write_bytes(b"PK\x03\x04half")
    with pytest.raises(UserError, match="cannot be read.*extend"):
        read_start(tmp_path / "half.pth")


TEXT = TextTable.of(CLASSES, [()] * 3, "random:0", "", np.eye(3, 6))
KNOWN = ("liver", "liver_tumor")  # the spleen is new


def frozen(tmp_path, mode=FROZEN):
    """An extension, the network that it starts, and the file with the weights of another network of this form."""
    network = make_network(extensions=(("spleen",),))
    weights = {
        key: value + 1 if value.is_floating_point() else value
        for key, value in network.state_dict().items()
        if ".seg_layers." not in key
    }
    text = {name: torch.from_numpy(row) for name, row in zip(TEXT.class_names, TEXT.vectors, strict=True)}
    torch.save({"network_weights": weights, "text_embedding": text}, tmp_path / "start.pth")
    return Extension(mode, "old", "0", KNOWN, (("spleen",),)), network, weights


@pytest.mark.parametrize("mode", [FROZEN, FINE_TUNE])
def test_a_training_begins_with_the_old_weights_of_which_only_the_new_part_learns(tmp_path, mode):
    extension, network, weights = frozen(tmp_path, mode)
    rows = network.class_embedding.vectors.clone()
    extension.begin(network, TEXT, tmp_path / "start.pth")
    assert all(torch.equal(network.state_dict()[key], value) for key, value in weights.items())
    assert torch.equal(network.class_embedding.vectors, rows), "the trainer fills these from the text table"
    learning = {key for key, parameter in network.named_parameters() if parameter.requires_grad}
    own = {key for key, _ in network.named_parameters() if mode == FINE_TUNE or key.startswith("extensions.0.")}
    assert learning == own


def test_weights_of_another_network_are_refused(tmp_path):
    extension, network, _ = frozen(tmp_path)
    other = make_network(extensions=(("spleen",),), features_per_stage=[4, 8, 24])
    with pytest.raises(UserError, match="do not fit the plans"):
        extension.begin(other, TEXT, tmp_path / "start.pth")


@pytest.mark.parametrize("change", ["moved", "gone", "new"])
def test_the_text_of_known_classes_must_be_that_of_the_old_model(tmp_path, change):
    extension, network, _ = frozen(tmp_path)
    names, vectors = list(CLASSES), np.eye(3, 6)
    if change == "gone":
        names[names.index("liver")] = "aorta"
    else:
        vectors[names.index("liver" if change == "moved" else "spleen"), 5] = 1
    table = TextTable.of(names, [()] * 3, "random:0", "", vectors)
    if change == "new":
        extension.begin(network, table, tmp_path / "start.pth")
    else:
        with pytest.raises(UserError, match="embedding of liver is not"):
            extension.begin(network, table, tmp_path / "start.pth")


def test_frozen_weights_must_be_those_of_the_old_model(tmp_path):
    extension, network, _ = frozen(tmp_path)
    extension.begin(network, TEXT, tmp_path / "start.pth")
    with torch.no_grad():
        network.extensions[0].controller.hidden.bias.add_(1)  # what learns may differ
        extension.check_frozen(network, tmp_path / "start.pth")
        network.controller.hidden.bias.add_(1)
    with pytest.raises(UserError, match="1 frozen tensors.*controller.hidden.bias"):
        extension.check_frozen(network, tmp_path / "start.pth")
    Extension(FINE_TUNE, "old", "0", KNOWN).check_frozen(network, tmp_path / "start.pth")


def test_only_the_newest_part_of_several_trains():
    network = make_network(extensions=(("spleen",), ("liver_tumor",))).train()
    Extension(FROZEN, "old", "0", ("liver",), (("spleen",), ("liver_tumor",))).keep_still(network)
    first, second = network.extensions
    assert not network.controller.training and not first.controller.training and second.controller.training


def test_fine_tuning_steps_gently_and_a_training_from_another_model_has_a_text_table_of_its_own(tmp_path):
    rates = {mode: Extension(mode, "old", "0").learning_rate_factor for mode in (FROZEN, FINE_TUNE, TRANSFER)}
    assert rates == {FROZEN: 1, FINE_TUNE: 0.1, TRANSFER: 1}
    entry = Extension(FROZEN, "old", "0", (), (("spleen",),)).to_json()
    assert text_file(tmp_path, {"plans_name": "p"}) == tmp_path / "text_embeddings.npz"
    own = {"plans_name": "p", "nnunetv2_clip": {"extension": entry}}
    assert text_file(tmp_path, own) == tmp_path / "p_text_embeddings.npz"
