"""`nnunetv2_clip prepare-weights`: published files, and others with MONAI's Swin UNETR, as a start of training."""

import json

import numpy as np
import pytest
import torch

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.cli import main
from nnunetv2_clip.text.table import FILE_NAME, TextTable
from nnunetv2_clip.training.universal_plans import universal_plans
from tests.plans.conftest import merge  # noqa: F401 a fixture
from tests.published import reference


@pytest.fixture
def prepare(merge, tmp_path, capsys):  # noqa: F811
    """Plan with a preset, prepare a file; the backbone of a new network that has loaded the result, and the report."""
    table = TextTable.of(UNIVERSAL.names, [()] * 32, "onehot", "numpy", np.eye(32))

    def run(content, preset="published_unet", code=0):
        torch.save(content, tmp_path / "file.pth")
        assert main(["plan", "-d", "903", "-pl", preset]) == 0
        [plans] = merge.glob("CLIP*Plans.json")
        table.save(merge / FILE_NAME)
        words = ["-i", str(tmp_path / "file.pth"), "-o", str(tmp_path / "ready.pth"), "-d", "903", "-p", plans.stem]
        assert main(["prepare-weights", *words]) == code
        said = capsys.readouterr()
        if code:
            assert not (tmp_path / "ready.pth").exists()
            return None, said.err
        return loaded(json.loads(plans.read_text()), table, tmp_path / "ready.pth"), said.out

    return run


def loaded(plans, table, path):
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(universal_plans(plans, "3d_fullres", table.restricted(UNIVERSAL.names), UNIVERSAL))
    network = nnUNetTrainer.build_network_architecture(manager, manager.get_configuration("3d_fullres"), 1, 32, False)
    load_pretrained_weights(network, str(path))
    return network.eval()


@torch.no_grad()
def same_features(network, expected, image):
    skips = network.encoder(image)
    ours = network.decoder(skips), skips[-1]
    return all(torch.allclose(a, b, atol=1e-4 * b.abs().max()) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize("key", ["net", "state_dict"])
def test_the_published_unet_fills_the_whole_backbone(prepare, key):
    state, image = reference.random_unet(), torch.rand(1, 1, 32, 16, 16)
    network, said = prepare({key: reference.in_layout(state, True, True)})
    assert "62 tensors from" in said and "13 tensors belong to no backbone" in said
    assert same_features(network, reference.unet_features(state, image), image)


@pytest.mark.slow
def test_monais_swin_unetr_fills_the_whole_backbone_of_plans_with_its_merging(prepare, merge):  # noqa: F811
    pytest.importorskip("monai", reason="MONAI is not installed (extra [swin])")
    torch.manual_seed(0)
    network, image = reference.monai_swin(), torch.rand(1, 1, 64, 32, 32)
    state = network.state_dict()
    ours, said = prepare({"state_dict": {f"module.{name}": value for name, value in state.items()}}, "published_swin")
    assert "157 tensors from" in said and "'monai_0.9'" in said
    assert terms_of(merge) == ("that of file.pth, from which the training started; ask its authors", True)
    with torch.no_grad():
        assert same_features(ours, reference.swin_features(state, image), image)


def terms_of(folder):
    """What a training with these plans will say of its licence."""
    [plans] = folder.glob("CLIP*Plans.json")
    table = TextTable.of(["liver"], [()], "onehot", "numpy", np.eye(1))
    entry = universal_plans(json.loads(plans.read_text()), "3d_fullres", table, UNIVERSAL)["nnunetv2_clip"]
    return entry.get("licence", ""), entry.get("redistribution", True)


def test_a_training_carries_the_licence_of_the_weights_from_which_it_starts(prepare, merge):  # noqa: F811
    network, said = prepare({"net": reference.random_unet()})
    assert "CC BY-NC-ND 4.0" in said and "not to be passed on" in said
    assert terms_of(merge) == ("CC BY-NC-ND 4.0 (of the published weights)", False)
    stock = {"network_weights": network.state_dict()}
    _, said = prepare(stock)  # plans anew
    assert "icence" not in said and terms_of(merge) == ("", True)
    made_with = {"plans": {"nnunetv2_clip": {"licence": "of a model", "redistribution": False}}}
    assert "of a model" in prepare({**stock, "init_args": made_with})[1]
    assert terms_of(merge) == ("of a model", False)


def test_weights_that_are_not_finite_are_refused(prepare, merge):  # noqa: F811
    state = reference.random_unet()
    state["up_tr64.up_conv.bias"][3] = float("nan")
    assert "holds NaN or infinite values in decoder.ups.2.bias" in prepare({"net": state}, code=2)[1]
    assert terms_of(merge) == ("", True)


def test_other_plans_are_refused_with_the_planner_that_fits(prepare):
    pytest.importorskip("monai", reason="MONAI is not installed (extra [swin])")
    _, said = prepare({"net": reference.random_unet()}, "paper_swin", code=2)
    assert "backbone tensors do not fit" in said and "plan -pl published_unet" in said


def test_the_merging_of_the_paper_is_not_that_of_todays_monai(prepare):
    pytest.importorskip("monai", reason="MONAI is not installed (extra [swin])")
    _, said = prepare({"net": reference.random_swin()}, "paper_swin", code=2)
    assert "'monai_0.9' of Swin UNETR; the plans have 'monai_1.5'" in said and "plan -pl published_swin" in said


def test_a_file_of_another_family_is_refused(prepare):
    _, said = prepare({"net": {"stem.weight": torch.zeros(1)}}, code=2)
    assert "another network: holds stem.weight" in said
