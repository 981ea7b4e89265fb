"""The text table of a model with rows for more classes: by the same encoder and the same prompts, or not at all."""

# Shapes: E width of the text embedding.

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nnunetv2_clip.classes import ClassRow
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.text.encode import encode, parse_encoder
from nnunetv2_clip.text.prompts import sentences
from nnunetv2_clip.text.table import TextTable

SAME_ENCODER = 0.9999  # cosine of one class, embedded twice: devices and library versions move it far less
WAY_OUT = (
    "make the table where the encoder is (nnunetv2_clip embed -d DATASET -o FILE.npz, with the encoder and the prompts "
    "of the model) and give it with --text-table FILE.npz"
)


def extended_table(
    old: TextTable,
    old_rows: Sequence[ClassRow],
    rows: Sequence[ClassRow],
    given: Path | None = None,
    weights: Path | None = None,
    device: str = "cpu",
) -> TextTable:
    """A table for `rows`: classes that `old` has keep their vectors to the bit, the others are embedded as those were.

    One class that both have is embedded again and compared, so that other weights under the same name are noticed.

    Args:
        old_rows: the classes of `old`; its prompts hold their nouns.
        given: take the new vectors from this table instead of the encoder.
        weights, device: as in `encode`.

    Raises:
        UserError: the encoder cannot be had, the prompts follow no template, or the vectors are another encoder's.
    """
    new = [row for row in rows if row.name not in old.class_names]
    if not new:
        return _rows_of(old, old, rows)
    control = next(row for row in old_rows if row.name in old.class_names)
    if given:
        source = TextTable.load(given)
        source.rows_for((row.name for row in new), old.width)
    else:
        source = _encoded(old, old_rows, [control, *new], weights, device)
    where = given or f"--encoder {old.encoder}"
    _require_same_encoder(source, old, control.name, where)
    return _rows_of(old, source, rows)


def templates_of(table: TextTable, rows: Sequence[ClassRow]) -> tuple[str, ...]:
    """The templates from which the prompts of a table were made; none for encoders that read no prompts.

    Raises:
        UserError: the prompts do not follow from templates and the classes' nouns.
    """
    by_name = {row.name: row for row in rows}
    ordered = [by_name[name] for name in table.class_names if name in by_name]
    if not any(table.prompts):
        return ()
    prompts = dict(zip(table.class_names, table.prompts, strict=True))
    for row in ordered:
        templates = tuple(sentence.replace(row.prompt, "{}") for sentence in prompts[row.name])
        one_gap = all(template.count("{}") == 1 for template in templates)
        if one_gap and sentences(ordered, templates) == tuple(prompts[each.name] for each in ordered):
            return templates
    found = f"the prompts, such as {table.prompts[0][:1]}, do not follow from one template and the nouns of the classes"
    raise UserError(table.where, found, "prompts that 'nnunetv2_clip embed' made", WAY_OUT)


def _encoded(old: TextTable, old_rows: Sequence[ClassRow], rows: Sequence[ClassRow], weights, device) -> TextTable:
    encoder = parse_encoder(old.encoder)
    if encoder.kind in ("onehot", "file"):
        raise UserError(
            f"--encoder {old.encoder}",
            "has no vector for a class that it has not seen",
            "a model with text embeddings" if encoder.kind == "onehot" else "the rows of the new classes",
            WAY_OUT if encoder.kind == "file" else "train a model with 'nnunetv2_clip embed --encoder open_clip:...'",
        )
    if old.weights and not weights:
        found = f"the model was made with the weights file {old.weights}"
        raise UserError(f"--encoder {old.encoder}", found, "the same file", f"give it with --weights; or {WAY_OUT}")
    try:
        return encode(encoder, rows, templates_of(old, old_rows), weights, device=device)
    except UserError as error:
        raise UserError(error.where, error.found, error.expected, f"{WAY_OUT}. Or {error.remedy}") from None


def _require_same_encoder(source: TextTable, old: TextTable, control: str, where: object) -> None:
    expected = f"vectors of {old.encoder}, with which the model was made"
    if source.encoder != old.encoder:
        raise UserError(where, f"the vectors are those of {source.encoder}", expected, WAY_OUT)
    if control in source.class_names:
        cosine = float(np.dot(*(table.rows_for([control])[0].astype(np.float64) for table in (source, old))))
        if cosine < SAME_ENCODER:
            found = f"the vector of {control!r} is another one than in the model (cosine {cosine:.4f})"
            raise UserError(where, found, f"{expected}, of the same prompts", WAY_OUT)


def _rows_of(old: TextTable, new: TextTable, rows: Sequence[ClassRow]) -> TextTable:
    """Each from the old table, else from the new one."""
    one_each = [(old if row.name in old.class_names else new).restricted([row.name]) for row in rows]
    return replace(
        old,
        class_names=tuple(row.name for row in rows),
        prompts=tuple(table.prompts[0] for table in one_each),
        vectors=np.concatenate([table.vectors for table in one_each]),
    )
