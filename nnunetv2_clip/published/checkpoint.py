"""Checkpoints of the authors' training, and of others that hold MONAI's Swin UNETR: their tensors under our names.

Such a file is a table with the weights at `net` or `state_dict`, beside the state of the training. A name may begin
with `module.`, then with `backbone.`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor, nn

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import few
from nnunetv2_clip.published.recipe import SWIN, UNET
from nnunetv2_clip.trained_model import CLASS_EMBEDDING, load_checkpoint

WEIGHTS_KEYS = ("net", "state_dict")
CLASS_VECTORS = "organ_embedding"
# Statistics that the authors' normalisation never uses, and a convolution that MONAI 0.8 saves where no block needs it.
UNUSED = re.compile(r"\.bn1\.(running_mean|running_var|num_batches_tracked)$|\.conv3\.")
# Our order of the dynamic parameters (networks/head_layout.py) in the authors': W1, W2, w3, b1, b2, b3.
PARAMETER_ORDER = [*range(64), *range(136, 144), *range(64, 128), *range(144, 152), *range(128, 136), 152]
# Beginnings of names: published, ours.
HEAD = (
    ("precls_conv.0.", "decoder.final.0."),
    ("precls_conv.2.", "feature_layers.0."),
    ("GAP.0.", "image_feature.norm."),
    ("GAP.3.", "image_feature.projection."),
    ("text_to_vision.", "controller.text_projection."),
    ("controller.", "controller.dynamic_parameters."),
    (CLASS_VECTORS, f"{CLASS_EMBEDDING}text_embedding"),
)


def _unet_names() -> Iterator[tuple[str, str]]:
    ways = (("down_tr", "encoder", (64, 128, 256, 512)), ("up_tr", "decoder", (256, 128, 64)))
    for way, ours, widths in ways:
        for stage, width in enumerate(widths):
            for number in (0, 1):
                for place, layer in enumerate(("conv1", "bn1")):
                    yield f"{way}{width}.ops.{number}.{layer}.", f"{ours}.stages.{stage}.{number}.{place}."
            yield f"{way}{width}.up_conv.", f"{ours}.ups.{stage}."


BACKBONES = {
    UNET: tuple(_unet_names()),
    SWIN: (
        ("swinViT.", "encoder.transformer."),
        *((f"encoder{number}.", f"encoder.blocks.{number - 1}.") for number in (1, 2, 3, 4)),
        ("encoder10.", "encoder.bottleneck."),
        *((f"decoder{number}.", f"decoder.blocks.{5 - number}.") for number in (5, 4, 3, 2, 1)),
    ),
}
FIRST = {UNET: "down_tr64.", SWIN: "swinViT."}  # which network it is


@dataclass(frozen=True, eq=False)
class PublishedWeights:
    """The tensors of a file.

    Attributes:
        where: the file.
        variant: UNET or SWIN.
        tensors: name without prefixes -> tensor.
    """

    where: Path
    variant: str
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> PublishedWeights:
        """Raises UserError: no checkpoint, a damaged one, or one of another network."""
        return cls.of(path, load_checkpoint(path, "the checkpoint as its authors publish it"))

    @classmethod
    def of(cls, path: Path, content: object) -> PublishedWeights:
        """The same for a file that was loaded. Raises UserError: it is of another network."""
        expected = "the tensors of the authors' U-Net (down_tr64...) or of MONAI's Swin UNETR (swinViT...)"
        table = content if isinstance(content, Mapping) else {}
        held = next((table[key] for key in WEIGHTS_KEYS if isinstance(table.get(key), Mapping)), table)
        tensors = {_without_prefixes(str(key)): value.detach() for key, value in held.items() if _is_plain(value)}
        variants = [name for name, first in FIRST.items() if any(key.startswith(first) for key in tensors)]
        if len(variants) != 1:
            found = f"holds {few(list(tensors) or list(map(str, table))) or 'nothing'}"
            remedy = "give a file of the authors' U-Net or Swin UNETR (docs/import_weights.md)"
            raise UserError(path, f"is the checkpoint of another network: {found}", expected, remedy)
        if len(tensors) < len(held):
            twice = "names a tensor twice, or holds what is no plain tensor, among its weights"
            raise UserError(path, twice, expected, "download it again from its authors")
        return cls(path, variants[0], tensors)

    @property
    def is_universal(self) -> bool:
        """Does the file hold the authors' text-driven head as well."""
        return CLASS_VECTORS in self.tensors

    def backbone(self) -> dict[str, Tensor]:
        """Our name -> tensor, of encoder and decoder."""
        return {
            ours: self.tensors[name]
            for name in self.tensors
            if (ours := _renamed(name, BACKBONES[self.variant])) is not None
        }

    def fill(self, network: nn.Module, vectors: Tensor) -> list[str]:
        """Give every tensor of the file to a network of ours; returns the names of those that no network uses.

        Args:
            vectors: (K, E), those of the file in the order and length that our network takes.

        Raises:
            UserError: tensors are missing, left over, of another shape, or hold NaN.
        """
        fresh = network.state_dict()
        pairs = tuple((ours, theirs) for theirs, ours in (*BACKBONES[self.variant], *HEAD))
        named = {str(_renamed(key, pairs)): key for key in fresh if key != f"{CLASS_EMBEDDING}trained"}
        unused = [name for name in self.tensors if name not in named and UNUSED.search(name)]
        problems = {
            "missing": [name for name in named if name not in self.tensors],
            "left over": [name for name in self.tensors if name not in named and name not in unused],
            "of another shape": [
                f"{name} {tuple(tensor.shape)}"
                for name, tensor in self.tensors.items()
                if name in named and not _fits(tensor, fresh[named[name]])
            ],
            "NaN or infinite": [name for name, tensor in self.tensors.items() if not tensor.isfinite().all()],
        }
        if any(problems.values()):
            found = "; ".join(f"tensors {what}: {few(names)}" for what, names in problems.items() if names)
            remedy = "download the file again; files of other versions of the authors' code are not supported"
            raise UserError(self.where, found, f"the {len(named)} tensors of the published {self.variant}", remedy)
        taken = {key: self.tensors[name].reshape(fresh[key].shape) for name, key in named.items()}
        taken |= {named[CLASS_VECTORS]: vectors, **_as_our_controller(taken)}
        network.load_state_dict({**fresh, **taken})
        return unused


def _is_plain(value: object) -> TypeGuard[Tensor]:
    """Numbers in a row: neither sparse nor quantised, complex or without values."""
    strided = isinstance(value, Tensor) and value.layout is torch.strided
    return strided and not (value.is_quantized or value.is_complex() or value.is_meta)


def _without_prefixes(name: str) -> str:
    return name.removeprefix("module.").removeprefix("backbone.")


def _renamed(name: str, pairs: tuple[tuple[str, str], ...]) -> str | None:
    return next((after + name.removeprefix(before) for before, after in pairs if name.startswith(before)), None)


def _fits(tensor: Tensor, ours: Tensor) -> bool:
    """Our linear layers are the authors' convolutions of one voxel."""
    return tuple(tensor.shape) in (tuple(ours.shape), (*ours.shape, 1, 1, 1))


def _as_our_controller(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The last layer of the controller: its outputs in our order; its inputs text and image, not image and text."""
    layer = "controller.dynamic_parameters."
    weight, bias = weights[f"{layer}weight"][PARAMETER_ORDER], weights[f"{layer}bias"][PARAMETER_ORDER]
    num_image = len(weights["image_feature.projection.bias"])
    turned = torch.cat((weight[:, num_image:], weight[:, :num_image]), dim=1)
    return {f"{layer}weight": turned, f"{layer}bias": bias}
