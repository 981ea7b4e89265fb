"""How far apart two surfaces may lie and still agree, per class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.errors import UserError

DEFAULT_MM = 3.0

# The Decathlon's tolerance of each CT task (Antonelli et al. 2022, Nat Commun 13:4128), the same for all targets of a
# task. Only that of the pancreas task could be checked against the organisers' material; the others are as reported.
TOLERANCE_MM: dict[str, float] = {
    "liver": 7.0,
    "liver_tumor": 7.0,
    "lung_tumor": 2.0,
    "pancreas": 5.0,
    "pancreas_tumor": 5.0,
    "hepatic_vessel": 3.0,
    "hepatic_vessel_tumor": 3.0,
    "spleen": 3.0,
    "colon_tumor": 4.0,
}


def tolerances_mm(names: Iterable[str], taxonomy: Taxonomy, table: Path | None = None) -> dict[str, float]:
    """Class -> tolerance in mm: the user's YAML table first, then the Decathlon's values, then its default.

    Args:
        table: YAML with the optional keys `default_mm: 3` and `classes: {liver: 7}`. Naming `default_mm` replaces
            the built-in values too, so that one number can hold for every class.

    Raises:
        UserError: the table cannot be read, names no class, or holds no positive number.
    """
    default, given = None, {}
    if table is not None:
        default, given = _read(table, taxonomy)
    built_in: Mapping[str, float] = TOLERANCE_MM if default is None else {}
    fallback = DEFAULT_MM if default is None else default
    return {name: given.get(name, built_in.get(name, fallback)) for name in names}


def _read(table: Path, taxonomy: Taxonomy) -> tuple[float | None, dict[str, float]]:
    import yaml

    try:
        content = yaml.safe_load(Path(table).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(table, f"cannot be read as YAML ({error})", "a table of tolerances") from None
    form = "default_mm: 3 and classes: {liver: 7}, both optional"
    if not isinstance(content, dict) or set(content) - {"default_mm", "classes"}:
        raise UserError(table, "has other keys than 'default_mm' and 'classes'", form)
    classes = content.get("classes") or {}
    if not isinstance(classes, dict):
        raise UserError(table, "'classes' is no table", form)
    default = content.get("default_mm")
    given = {taxonomy.find(str(name), table).name: _positive(value, name, table) for name, value in classes.items()}
    return (None if default is None else _positive(default, "default_mm", table)), given


def _positive(value: object, name: object, table: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise UserError(table, f"the tolerance of {name!r} is {value!r}", "a positive number of millimetres")
    return float(value)
