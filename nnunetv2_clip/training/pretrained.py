"""Weights of nnU-Net, of networks around its own, or of the published ones, for nnU-Net's -pretrained_weights.

nnU-Net's loader demands every key of the new network, save those with `.seg_layers.` in them, in equal shape. A
universal checkpoint fulfils that for any class list. Other checkpoints lack controller and feature layers: they are
added here from a fresh initialisation, and so is what of an input or a decoder has another shape.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import few, read_json, remove_leftovers, replacing, write_json
from nnunetv2_clip.labels import class_names
from nnunetv2_clip.networks.swin_unetr import MONAI_0_9, MONAI_1_5
from nnunetv2_clip.paths import dataset_folder
from nnunetv2_clip.published.checkpoint import PublishedWeights
from nnunetv2_clip.published.recipe import LICENCE, SWIN, UNET
from nnunetv2_clip.text.table import FILE_NAME as TEXT_FILE
from nnunetv2_clip.text.table import TextTable
from nnunetv2_clip.trained_model import LICENCE_ENTRY, PLANS_KEY, REDISTRIBUTION_ENTRY, load_checkpoint
from nnunetv2_clip.training.universal_plans import universal_plans

PUBLISHED_PLANNERS = {UNET: "published_unet", SWIN: "published_swin"}
# MultiTalent's networks for several kinds of images have a stem for each, under nnU-Net's name and one of their own.
# Source: MIC-DKFZ/MultiTalent, multitalent/run/load_pretrained_weights_MT.py.
STEM = re.compile(r"(?P<before>(decoder\.)?encoder\.stem\.)(?P<stem>(?!convs\.)[^.]+)\.(?P<after>.+)")
# VoxTell's tensors beside nnU-Net's residual encoder and decoder. Source: its voxtell/model/voxtell_model.py.
VOXTELL = "transformer_decoder."


@dataclass(frozen=True, eq=False)
class _Start:
    """What a checkpoint gives to a training.

    Attributes:
        weights: its tensors under our names.
        terms: what our entry of the plans is to say of their licence.
        remedy: what helps if they do not fit.
        note: what is to be known if they do.
    """

    weights: Mapping[str, Tensor]
    terms: Mapping[str, object]
    remedy: str
    note: str = ""


def prepare_weights(source: str, target: str, dataset: str, configuration: str, plans_name: str, stem: str = "") -> str:
    """Write `target`, and the licence of the weights into the plans; returns what was taken over, for people.

    Args:
        stem: which one, of a file with several.

    Raises:
        UserError: no checkpoint, backbones that do not match (names the first keys), or weights that are not finite.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    folder = dataset_folder("nnUNet_preprocessed", dataset)
    dataset_json = read_json(folder / "dataset.json", "plan the dataset first")
    plans_file = folder / f"{plans_name}.json"
    stock = read_json(plans_file, "plan the dataset first, or give the right -p")
    classes = class_names(dataset_json["labels"])
    plans = universal_plans(stock, configuration, TextTable.load(folder / TEXT_FILE).restricted(classes), UNIVERSAL)
    manager = PlansManager(plans)
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    network = nnUNetTrainer.build_network_architecture(
        manager, manager.get_configuration(configuration), len(dataset_json["channel_names"]), len(classes), True
    )
    fresh = network.state_dict()
    start = _start(Path(source), manager.plans, configuration, stem)
    num_channels = len(dataset_json["channel_names"])
    misfits = _misfits(source, start, fresh, num_channels, f"the plans {plans_name!r}, configuration {configuration!r}")
    taken = {key: value for key, value in start.weights.items() if key in fresh and value.shape == fresh[key].shape}
    licence = _note_licence(plans_file, stock, start.terms)
    remove_leftovers(Path(target).parent, name=Path(target).name)
    with replacing(target) as beside:
        torch.save({"network_weights": {**fresh, **taken}}, beside)
    return (
        f"{target}: {len(taken)} tensors from {source}, {len(fresh) - len(taken)} fresh.{start.note}\n"
        f"{misfits}{_unused(start, fresh)}{licence}"
        f"Next: nnUNetv2_train {dataset} {configuration} 0 -tr CLIPUniversalTrainer -p {plans_name} "
        f"-pretrained_weights {target}"
    )


def _misfits(source: str, start: _Start, fresh: Mapping[str, Tensor], num_channels: int, plans: str) -> str:
    """The tensors of the backbone that stay fresh, a line each: those of another number of image channels, and of a
    decoder around an encoder that fits.

    Raises:
        UserError: other tensors of the backbone have another shape, or some are missing or not finite.
    """
    backbone = sorted(key for key in fresh if key.startswith(("encoder.", "decoder.")))
    found = {key: tuple(start.weights[key].shape) if key in start.weights else "nothing" for key in backbone}
    wrong = [key for key in backbone if found[key] != tuple(fresh[key].shape)]
    said = {key: f"{key} (found {found[key]}, expected {tuple(fresh[key].shape)})" for key in wrong}
    if fatal := [said[key] for key in wrong if not _may_be_fresh(key, found[key], fresh[key], num_channels)]:
        text = f"{len(wrong)} of {len(backbone)} backbone tensors do not fit: {', '.join(fatal[:3])}"
        raise UserError(source, text, f"a checkpoint trained with {plans}", start.remedy)
    if bad := [key for key in backbone if not start.weights[key].isfinite().all()]:
        text = f"holds NaN or infinite values in {few(bad)}"
        raise UserError(source, text, "the weights of a training that went well", "take another checkpoint")
    return "".join(f"  stays fresh: {line}\n" for line in said.values())


def _may_be_fresh(key: str, found: tuple[int, ...] | str, ours: Tensor, num_channels: int) -> bool:
    if isinstance(found, str) or len(found) != ours.ndim:
        return False
    if not key.startswith(("encoder.", "decoder.encoder.")):
        return True
    of_image = ours.ndim > 2 and ours.shape[1] == num_channels
    return of_image and (found[0], *found[2:]) == (ours.shape[0], *ours.shape[2:])


def _unused(start: _Start, fresh: Mapping[str, Tensor]) -> str:
    """A line on the tensors of the file that our network has no place for."""
    parts = Counter(
        re.sub(r"\.\d+\..*", "", name).removesuffix(".weight").removesuffix(".bias")
        for name in start.weights
        if name not in fresh
    )
    listed = ", ".join(f"{part} ({count})" for part, count in sorted(parts.items()))
    return f"  not used: {listed}\n" if parts else ""


def _note_licence(plans_file: Path, plans: Mapping, terms: Mapping[str, object]) -> str:
    """Write it into the plans, from where every training with them takes it; returns a line for people."""
    if not terms:
        return ""
    write_json(plans_file, {**plans, PLANS_KEY: {**(plans.get(PLANS_KEY) or {}), **terms}})
    forbidden = "; a model trained from them is not to be passed on" if REDISTRIBUTION_ENTRY in terms else ""
    return f"Licence of the weights: {terms[LICENCE_ENTRY]}{forbidden} (now in {plans_file}).\n"


def _start(source: Path, plans: Mapping, configuration: str, stem: str) -> _Start:
    """Raises UserError: no checkpoint, one without that stem, or one of Swin UNETR whose merging is not the plans'."""
    content = load_checkpoint(source, "a checkpoint of nnU-Net, or one with 'net' or 'state_dict'")
    if isinstance(content, dict) and "network_weights" in content:
        remedy = "transfer the plans with nnUNetv2_move_plans_between_datasets and preprocess with them"
        weights = content["network_weights"]
        if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
            raise UserError(source, "holds no tensors by name at 'network_weights'", "a checkpoint of nnU-Net")
        weights = _with_stem(source, {str(key): value for key, value in weights.items()}, stem)
        return _Start(weights, _terms_of_training(source, content), remedy)
    published = PublishedWeights.of(source, content)
    planner = PUBLISHED_PLANNERS[published.variant]
    remedy = f"plan with 'nnunetv2_clip plan -pl {planner}', preprocess with these plans, and name them with -p"
    weights = published.backbone()
    note = f" Of the file {len(published.tensors) - len(weights)} tensors belong to no backbone."
    if published.variant == SWIN:
        note += _check_merging(published, plans["configurations"][configuration]["architecture"], remedy)
    return _Start(weights, _terms_of_file(published), remedy, note)


def _with_stem(source: Path, weights: Mapping[str, Tensor], stem: str) -> dict[str, Tensor]:
    """The tensors with those of one stem under nnU-Net's names.

    Raises:
        UserError: the file has other stems, or only one.
    """
    found = {key: match for key in weights if (match := STEM.fullmatch(key))}
    stems = sorted({match["stem"] for match in found.values()})
    if stem not in (stems or [""]):
        text = f"has the stems {', '.join(stems)}" if stems else "has no stems to choose from"
        remedy = "name the one that was trained on images like yours" if stems else "leave out --stem"
        raise UserError(source, text, "--stem with one of them" if stems else "", remedy)
    own = {match["before"] + match["after"]: key for key, match in found.items() if match["stem"] == stem}
    return {**weights, **{ours: weights[key] for ours, key in own.items()}}


def _terms_of_training(source: Path, checkpoint: Mapping) -> dict:
    """Of nnU-Net's checkpoints those know a licence that import-weights made, or that started from such weights."""
    if any(key.startswith(VOXTELL) or STEM.fullmatch(key) for key in map(str, checkpoint["network_weights"])):
        return _terms_of_authors(source)
    plans = (checkpoint.get("init_args") or {}).get("plans") or {}
    entry = plans.get(PLANS_KEY) or {}
    return {key: entry[key] for key in (LICENCE_ENTRY, REDISTRIBUTION_ENTRY) if key in entry}


def _terms_of_file(weights: PublishedWeights) -> dict:
    """The licence of a file of the authors; others do not say who made them."""
    if weights.is_universal:
        return {LICENCE_ENTRY: LICENCE, REDISTRIBUTION_ENTRY: False}
    return _terms_of_authors(weights.where)


def _terms_of_authors(file: Path) -> dict:
    return {LICENCE_ENTRY: f"that of {file.name}, from which the training started; ask its authors"}


def _check_merging(weights: PublishedWeights, architecture: Mapping, remedy: str) -> str:
    """What to say of a file that may hold either. Raises UserError: it holds another than the plans name."""
    merging = architecture["arch_kwargs"].get("merging", MONAI_1_5)
    if not weights.is_universal:
        return f" The plans have the merging {merging!r}; use them for weights of MONAI with this merging alone."
    if merging != MONAI_0_9:
        found = f"was trained with the merging {MONAI_0_9!r} of Swin UNETR; the plans have {merging!r}"
        raise UserError(weights.where, found, "plans with the merging of the weights", remedy)
    return ""


def read_checkpoint(path: Path | str) -> dict:
    """A checkpoint of nnU-Net, on the CPU. Raises UserError: it is none."""
    checkpoint = load_checkpoint(Path(path), "a checkpoint of nnU-Net")
    if not isinstance(checkpoint, dict) or "network_weights" not in checkpoint:
        raise UserError(path, "holds no 'network_weights'", "a checkpoint of nnU-Net")
    return checkpoint
