"""How far apart two surfaces may lie and still agree, per class."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from nnunetv2_clip.classes import PerClass, Taxonomy
from nnunetv2_clip.tables import Finite, Row, checked, read_yaml

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


_Mm = Annotated[Finite, Field(gt=0)]
_EXPECTED = Field(description="a positive number of millimetres")


@dataclass(frozen=True)
class _Table(Row):
    default_mm: Annotated[_Mm | None, _EXPECTED] = None
    classes: Annotated[PerClass[_Mm], _EXPECTED] = field(default_factory=dict)


def tolerances_mm(names: Iterable[str], taxonomy: Taxonomy, table: Path | None = None) -> dict[str, float]:
    """Class -> tolerance in mm: the user's YAML table first, then the Decathlon's values, then its default.

    Args:
        table: YAML with the optional keys `default_mm: 3` and `classes: {liver: 7}`. Naming `default_mm` replaces
            the built-in values too, so that one number can hold for every class.

    Raises:
        UserError: the table cannot be read, names no class, or holds no positive number.
    """
    content = None if table is None else read_yaml(table, "a table of tolerances")
    given = checked(_Table, {} if content is None else content, table, context=taxonomy)
    built_in: Mapping[str, float] = TOLERANCE_MM if given.default_mm is None else {}
    fallback = given.default_mm or DEFAULT_MM
    return {name: given.classes.get(name, built_in.get(name, fallback)) for name in names}
