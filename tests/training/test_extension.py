"""What the plans say about the start of a training, and which weights follow from it."""

import pytest
import torch

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.networks.pairs import Pairs
from nnunetv2_clip.training.extension import FINE_TUNE, FROZEN, TRANSFER, Extension, read_start, start_weights
from tests.networks.test_universal import make_network

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
