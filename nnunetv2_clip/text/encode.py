"""Encoders: classes -> sentences -> vectors -> a TextTable. One door to all of them."""

# Shapes: K classes, T sentences per class (one per template), E width of the text embedding.

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_clip.classes import ClassRow
from nnunetv2_clip.device import find_device
from nnunetv2_clip.errors import UserError, suggestion
from nnunetv2_clip.imaging.nifti import checksum
from nnunetv2_clip.text.models import LOCAL_DIR, minilm_vectors, open_clip_vectors, sentence_vectors
from nnunetv2_clip.text.prompts import DEFAULT_TEMPLATE, sentences
from nnunetv2_clip.text.table import TextTable
from nnunetv2_clip.text.tensor_file import imported_vectors

DEFAULT_ENCODER = "open_clip:ViT-B-32/openai"  # the paper's
# Kind -> the form of an --encoder, the pattern of its argument, and what reads sentences for it.
KINDS = {
    "open_clip": ("open_clip:MODEL/TAG", f"{LOCAL_DIR}.*|.+/[^/]+", open_clip_vectors),
    "minilm": ("minilm", "", minilm_vectors),
    "hf": ("hf:MODEL", ".+", sentence_vectors),
    "onehot": ("onehot", "", None),
    "random": ("random:SEED", r"\d+", None),
    "file": ("file:PATH", ".+", None),
}
SHIPPED_MINILM = Path(__file__).parent / "tables" / "minilm_v3.npz"
RANDOM_WIDTH = 512  # the width of the paper's CLIP embedding


@dataclass(frozen=True)
class Encoder:
    """A parsed --encoder: what makes the vectors, and with which model, seed or file."""

    kind: str
    argument: str = ""

    @property
    def reads_prompts(self) -> bool:
        return KINDS[self.kind][2] is not None

    def __str__(self) -> str:
        return f"{self.kind}:{self.argument}" if self.argument else self.kind

    @property
    def shown(self) -> str:
        """As tables name it. They travel, with models too: of a file or folder of this machine the name alone."""
        schema = LOCAL_DIR if self.argument.startswith(LOCAL_DIR) else ""
        path = os.path.abspath(self.argument.removeprefix(schema))
        is_local = self.kind == "file" or schema or (self.kind == "hf" and os.path.isdir(path))
        return f"{self.kind}:{schema}{os.path.basename(path)}" if is_local else str(self)


def parse_encoder(text: str) -> Encoder:
    """The encoder that a text such as "open_clip:ViT-B-32/openai" names.

    Raises:
        UserError: an unknown kind, or its argument is missing or too much.
    """
    kind, _, argument = text.partition(":")
    if kind not in KINDS:
        forms = ", ".join(form for form, *_ in KINDS.values())
        hint = suggestion(kind, KINDS)
        raise UserError("--encoder", f"unknown encoder {text!r}.{hint}", f"one of {forms}", "see docs/text.md")
    form, pattern, _ = KINDS[kind]
    if not re.fullmatch(pattern, argument, re.DOTALL):
        raise UserError("--encoder", f"{text!r}", f"the form {form}", f"for example {DEFAULT_ENCODER}")
    return Encoder(kind, argument)


def encode(
    encoder: str | Encoder,
    rows: Sequence[ClassRow],
    templates: Sequence[str] | None = None,
    weights: Path | str | None = None,
    class_order: Path | str | None = None,
    device: str = "cpu",
) -> TextTable:
    """The text table of these classes.

    Several templates are averaged: each sentence's vector is normalised, and the mean is normalised again
    (the usual prompt ensemble of CLIP).

    Args:
        encoder: see `parse_encoder`.
        rows: the classes, in the order of the table.
        templates: see `prompts`; the default is the paper's V3.
        weights: a local weights file for open_clip, instead of the download or its cache.
        class_order: for file: a text file with one class name per row of the tensor.
        device: where a text encoder runs.

    Raises:
        UserError: an option that the encoder does not read, a package or weights that are not there,
            a file that does not fit the classes.
    """
    encoder = encoder if isinstance(encoder, Encoder) else parse_encoder(encoder)
    _refuse_unread_options(encoder, templates, weights, class_order)
    names = [row.name for row in rows]
    if not encoder.reads_prompts:
        vectors, library, source = _wordless_vectors(encoder, rows, class_order)
        return TextTable.of(names, [()] * len(names), encoder.shown, library, vectors, source)
    prompts = sentences(rows, templates or (DEFAULT_TEMPLATE,))
    if encoder.kind == "minilm" and (shipped := _from_shipped_table(names, prompts)):
        return shipped
    return _read_sentences(encoder, names, prompts, weights, device)


def minilm_table(rows: Sequence[ClassRow]) -> TextTable:
    """The table of MiniLM itself with the default prompt, never the shipped one."""
    return _read_sentences(Encoder("minilm"), [row.name for row in rows], sentences(rows))


def _read_sentences(
    encoder: Encoder, names: Sequence[str], prompts: Sequence[Sequence[str]], weights=None, device: str = "cpu"
) -> TextTable:
    device = str(find_device(device))
    if weights and not Path(weights).is_file():
        raise UserError(f"--weights {weights}", "does not exist", "a weights file", "check the path")
    flat = [sentence for each in prompts for sentence in each]
    read = KINDS[encoder.kind][2]
    assert read is not None, encoder
    vectors, library = read(encoder.argument, flat, device, weights)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    mean = unit.reshape(len(names), -1, unit.shape[1]).mean(axis=1)
    return TextTable.of(names, prompts, encoder.shown, library, mean, _fingerprint(weights) if weights else "")


def _refuse_unread_options(encoder: Encoder, templates, weights, class_order) -> None:
    unread = {
        "--prompt": templates and not encoder.reads_prompts,
        "--weights": weights and encoder.kind != "open_clip",
        "--class-order": class_order and encoder.kind != "file",
    }
    for option, given in unread.items():
        if given:
            raise UserError(option, f"is not read by the encoder {str(encoder)!r}", "", f"leave {option} out")


def _wordless_vectors(encoder: Encoder, rows: Sequence[ClassRow], class_order) -> tuple[np.ndarray, str, str]:
    numpy_version = f"numpy {np.__version__}"
    if encoder.kind == "onehot":  # DoDNet's task encoding
        return np.eye(len(rows), dtype=np.float32), numpy_version, ""
    if encoder.kind == "random":
        # seeded per class, so that a class has the same vector in every dataset
        seed = int(encoder.argument)
        drawn = [np.random.default_rng([seed, row.index]).standard_normal(RANDOM_WIDTH) for row in rows]
        return np.array(drawn, dtype=np.float32), numpy_version, ""
    path = Path(encoder.argument)
    return imported_vectors(path, rows, class_order), numpy_version, _fingerprint(path)


def _from_shipped_table(names: Sequence[str], prompts: Sequence[Sequence[str]]) -> TextTable | None:
    """The rows of the shipped MiniLM table, if it holds exactly these sentences."""
    shipped = TextTable.load(SHIPPED_MINILM)
    known = dict(zip(shipped.class_names, shipped.prompts, strict=True))
    if any(known.get(name) != tuple(each) for name, each in zip(names, prompts, strict=True)):
        return None
    return TextTable.of(names, prompts, shipped.encoder, shipped.library, shipped.rows_for(names))


def _fingerprint(path: Path | str) -> str:
    return f"{Path(path).name} sha256:{checksum(Path(path))}"
