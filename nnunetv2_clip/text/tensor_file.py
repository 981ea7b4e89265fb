"""Embeddings made elsewhere: a matrix in a .pth, .npy or .npz file, brought into the order of our classes."""

# Shapes: K classes, E width of the text embedding.

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnunetv2_clip.classes import UNIVERSAL, ClassRow, normalise
from nnunetv2_clip.errors import UserError, suggestion
from nnunetv2_clip.text.table import TextTable


def imported_vectors(path: Path, rows: Sequence[ClassRow], class_order: Path | str | None = None) -> np.ndarray:
    """(K, E) float32 from a tensor file made elsewhere, brought into the order of `rows`.

    Which row is which class: a table of ours says it; else `class_order`, by name or alias; else 32 rows are the
    universal classes 1..32; else there must be one row per class, by universal index.

    Raises:
        UserError: not readable as one matrix, the rows do not fit the classes, or the order is not that of the table.
    """
    names = [row.name for row in rows]
    tensor, own_names = _read_tensor(path)
    if tensor.ndim != 2:
        raise UserError(path, f"the tensor has shape {tensor.shape}", "two axes: classes x width")
    if class_order:
        order = read_class_order(class_order, rows)
        if own_names and order != list(own_names):
            found = f"is another order than that of the table {path}, which names its classes"
            raise UserError(class_order, found, f"{', '.join(own_names)}", "leave out --class-order")
    elif own_names:
        order = list(own_names)
    elif len(tensor) == len(UNIVERSAL) and all(name in UNIVERSAL.names for name in names):
        order = list(UNIVERSAL.names)
    else:
        order = [row.name for row in sorted(rows, key=lambda row: row.index)]
    if len(order) != len(tensor):
        expected = f"one row per class{f' of {class_order}' if class_order else ', by universal index'}"
        remedy = "name the class of each row, one per line, in a file given with --class-order"
        raise UserError(path, f"the tensor has {len(tensor)} rows for {len(order)} classes", expected, remedy)
    missing = [name for name in names if name not in order]
    if missing:
        found = f"no row for {', '.join(missing)}.{suggestion(missing[0], order)}"
        remedy = "correct the names in --class-order, or make a tensor with these classes"
        raise UserError(class_order or path, found, f"the classes {', '.join(names)}", remedy)
    return tensor[[order.index(name) for name in names]]


def _read_tensor(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """(rows, E) float32, and the class names if the file is a table of ours."""
    if path.suffix not in (".pth", ".pt", ".npy", ".npz"):
        raise UserError(path, f"the ending {path.suffix!r}", ".pth, .pt, .npy or .npz")
    try:
        if path.suffix in (".pth", ".pt"):
            import torch

            tensor = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(tensor, torch.Tensor):
                raise UserError(path, f"holds a {type(tensor).__name__}", "one tensor, classes x width")
            if tensor.is_complex():
                raise UserError(path, f"holds values of type {tensor.dtype}", "real numbers, classes x width")
            return tensor.detach().float().numpy(), ()
        with open(path, "rb") as file:
            content = np.load(file, allow_pickle=False)
            arrays = dict(content) if isinstance(content, np.lib.npyio.NpzFile) else {"": content}
        if "metadata" in arrays:
            table = TextTable.load(path)
            return table.vectors, table.class_names
        if len(arrays) != 1:
            raise UserError(path, f"holds the arrays {sorted(arrays)}", "one array, classes x width")
        array = next(iter(arrays.values()))
        if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)):
            raise UserError(path, f"holds values of type {array.dtype}", "real numbers, classes x width")
        with np.errstate(over="ignore"):  # too large for float32: refused as not finite
            return array.astype(np.float32), ()
    except UserError:
        raise
    except Exception as error:  # each format fails in its own ways: unpickling, zip, end of file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(path, f"cannot be read as a tensor ({reason})", "a matrix, classes x width") from None


def read_class_order(path: Path | str, rows: Sequence[ClassRow]) -> list[str]:
    """The class of each row; names that are no class of ours stay as they are, for the tensor may hold more."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(path, f"cannot be read ({error})", "a text file, one class name per line") from None
    names = {normalise(alias): row.name for row in (*UNIVERSAL, *rows) for alias in (row.name, *row.aliases)}
    order = [names.get(normalise(line), normalise(line)) for line in lines if line.strip()]
    twice = sorted({name for name in order if order.count(name) > 1})
    if twice:
        raise UserError(path, f"names {', '.join(twice)} more than once", "each class once", "correct the names")
    return order
