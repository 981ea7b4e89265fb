"""A training that starts from another universal model: what the plans say about it, and what the trainer does then.

`nnunetv2_clip extend` writes the entry `extension` into plans, and the file of initial weights beside them.
"""

# Shapes: B cases, K classes, E text embedding.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from nnunetv2_clip.choices import FINE_TUNE, FROZEN, MODES, TRANSFER
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.networks.universal import CLIPUniversalNet
from nnunetv2_clip.text.table import FILE_NAME as TEXT_FILE
from nnunetv2_clip.text.table import TextTable
from nnunetv2_clip.trained_model import EXTENSION_ENTRY, PLANS_KEY

# Fine-tuning starts where the old training ended: its first steps must not undo it.
LEARNING_RATE_FACTOR = {FROZEN: 1.0, FINE_TUNE: 0.1, TRANSFER: 1.0}
CLASS_ROWS = ".seg_layers."  # keys whose size depends on the classes: the trainer fills them from the text table


@dataclass(frozen=True)
class Extension:
    """Which model a training starts from, and what of it stays.

    Attributes:
        mode: FROZEN: only the part of the new classes learns. FINE_TUNE: everything learns, and the old classes are
            to be kept. TRANSFER: everything learns, the old classes do not matter.
        model: the old model, dataset and folder name.
        fold: of the old model.
        known: classes that the old model has learnt and that are to be kept; none in TRANSFER.
        parts: the classes of every part beside the network's own (networks/universal.py), the newest last.
    """

    mode: str
    model: str
    fold: str
    known: tuple[str, ...] = ()
    parts: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of_plans(cls, plans: Mapping) -> Extension | None:
        """The entry in the plans; None for a training that starts afresh. Raises UserError: the entry is damaged."""
        entry = (plans.get(PLANS_KEY) or {}).get(EXTENSION_ENTRY)
        if entry is None:
            return None
        try:
            parts = tuple(tuple(part) for part in entry["parts"])
            extension = cls(entry["mode"], entry["model"], str(entry["fold"]), tuple(entry["known"]), parts)
            if extension.mode not in MODES or (extension.is_frozen and not extension.parts):
                raise ValueError(f"mode {extension.mode!r}, parts {parts}")
        except (KeyError, TypeError, ValueError) as error:
            where = f"plans {plans.get('plans_name')!r}, entry {EXTENSION_ENTRY!r}"
            raise UserError(
                where, f"is damaged ({error})", "what 'nnunetv2_clip extend' wrote", "run it again"
            ) from None
        return extension

    def to_json(self) -> dict:
        return asdict(self)

    @property
    def is_frozen(self) -> bool:
        return self.mode == FROZEN

    @property
    def learning_rate_factor(self) -> float:
        return LEARNING_RATE_FACTOR[self.mode]

    def learns(self, key: str) -> bool:
        """Does training change the parameter of this name."""
        return not self.is_frozen or key.startswith(part_prefix(len(self.parts)))

    def gives_loss(self, classes: Sequence[str]) -> np.ndarray:
        """(K,) bool: loss of the other classes would change nothing, so it is not computed."""
        return np.array([not self.is_frozen or name in self.parts[-1] for name in classes])

    def begin(self, network: nn.Module, text: TextTable, start: Path) -> None:
        """Load the initial weights and freeze what does not learn.

        Raises:
            UserError: no such file, weights of another network, or a text table in which known classes have others
                vectors than in the old model.
        """
        weights, old = read_start(start)
        rows = dict(zip(text.class_names, text.vectors, strict=True))
        changed = [name for name in self.known if name not in rows or not np.array_equal(rows[name], old[name].numpy())]
        if changed:
            expected = f"the table that 'nnunetv2_clip extend' wrote for {self.model}"
            raise UserError(
                text.where, f"the text embedding of {', '.join(changed)} is not that of the old model", expected, REMAKE
            )
        state = network.state_dict()
        wanted = {key: value.shape for key, value in state.items() if CLASS_ROWS not in key}
        found = {key: value.shape for key, value in weights.items()}
        if wanted != found:
            differing = sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key))
            raise UserError(
                start, f"{len(differing)} tensors do not fit the plans: {', '.join(differing[:3])}", "", REMAKE
            )
        network.load_state_dict({**state, **weights})
        for key, parameter in network.named_parameters():
            parameter.requires_grad_(self.learns(key))

    def check_frozen(self, network: nn.Module, start: Path) -> None:
        """Raises UserError unless what is frozen is the old model's: weights loaded later may have replaced it."""
        if not self.is_frozen:
            return
        weights = read_start(start)[0]
        changed = [
            key
            for key, value in network.state_dict().items()
            if CLASS_ROWS not in key and not self.learns(key) and not torch.equal(value.cpu(), weights[key])
        ]
        if changed:
            raise UserError(
                start,
                f"{len(changed)} frozen tensors of the network are not those of {self.model}: {', '.join(changed[:3])}",
                "a training that starts from this file, or one that continues it",
                "leave -pretrained_weights out; move the model folder of another training away",
            )

    def keep_still(self, network: CLIPUniversalNet) -> None:
        """Frozen modules behave as at prediction (dropout, running statistics) while the new part trains."""
        if not self.is_frozen:
            return
        for name, module in network.named_children():
            if name != "extensions":
                module.eval()
        for part in network.extensions[:-1]:
            part.eval()


REMAKE = "run 'nnunetv2_clip extend' again with --overwrite"


def part_prefix(number: int) -> str:
    """What the keys of the n-th part start with, counted from 1."""
    return f"extensions.{number - 1}."


def start_file(folder: Path, plans_name: str) -> Path:
    """The initial weights of a training with these plans, in the preprocessed folder of its dataset."""
    return folder / f"{plans_name}_start.pth"


def text_file(folder: Path, plans: Mapping) -> Path:
    """The text table of a training: its own for a training that starts from another model, else the dataset's."""
    own = Extension.of_plans(plans) is not None
    return folder / (f"{plans['plans_name']}_{TEXT_FILE}" if own else TEXT_FILE)


def read_start(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The initial weights, and the text embedding (E,) of each class of the old model.

    Raises:
        UserError: not there, or damaged.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return content["network_weights"], content["text_embedding"]
    except FileNotFoundError:
        raise UserError(path, "does not exist", "the weights to start from", REMAKE) from None
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        raise UserError(path, f"cannot be read ({error})", "the weights to start from", REMAKE) from None


def start_weights(weights: Mapping[str, Tensor], mode: str, num_parts: int) -> dict[str, Tensor]:
    """The weights of an old model as those of the new network: no class rows, and a new part in FROZEN.

    Args:
        num_parts: of the new network.
    """
    kept = {key: value.clone() for key, value in weights.items() if CLASS_ROWS not in key}
    if mode == TRANSFER:
        return {key: value for key, value in kept.items() if not key.startswith("extensions.")}
    if mode == FROZEN:
        own = (key for key in list(kept) if key.startswith(("feature_layers.", "controller.")))
        kept.update({part_prefix(num_parts) + key: kept[key].clone() for key in own})
    return kept
