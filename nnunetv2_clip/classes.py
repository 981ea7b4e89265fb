"""The universal taxonomy: which classes there are, what they are called and how they relate."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, StrictInt, ValidationInfo, WrapValidator

from nnunetv2_clip.errors import UserError, suggestion
from nnunetv2_clip.tables import AsWritten, Finite, Names, NoneIsEmpty, Row, Text, checked, read_yaml

FIRST_USER_INDEX = 33
LAST_USER_INDEX = 255  # predicted label maps of nnU-Net are uint8
SIDES = ("right", "left")
SNOMED_CONCEPT = re.compile(r"(\d{6,18}) *\|([^|]+)\|")  # SNOMED CT's compositional grammar
NAME = re.compile("[a-z0-9_]{1,64}")  # it is part of file names, and a long string of DICOM
# Other things in the `labels` of a dataset.json; the CT beside the masks of a case.
RESERVED_NAMES = ("background", "ignore", "ct")


def normalise(name: str) -> str:
    """The form in which names are compared: small letters, words joined by _."""
    return "_".join(str(name).lower().replace("-", " ").replace("_", " ").split())


def _own_name(name: str) -> str:
    """The name of a class in a table, as it is to be written."""
    if normalise(name) != name or not NAME.fullmatch(name):
        example = re.sub("[^a-z0-9]+", "_", normalise(name)).strip("_")[:64] or "renal_vein"
        raise UserError("", repr(name), f"at most 64 small letters (a to z), digits and _: {example!r}")
    if name in RESERVED_NAMES:
        raise UserError("", repr(name), "another name; this one means something else in our files")
    return name


def _snomed_concept(text: str) -> str:
    if text and not SNOMED_CONCEPT.fullmatch(text):
        raise UserError("", repr(text), "a SNOMED CT concept as ID |term|, for instance 56400007 |Renal vein|")
    return text


@dataclass(frozen=True)
class ClassRow(Row):
    """One class of the taxonomy.

    Attributes:
        index: the universal index (1..32 as in the paper's code, from 33 on the user's own).
        name: identifier in files, options and logs.
        prompt: the noun that stands in the text prompt; the name with spaces unless given.
        aliases: other names under which users and datasets know the class.
        parents: organs of which this class is a part; a voxel of the class belongs to one of them
            (a kidney tumour to the right or the left kidney).
        partner: the same structure on the other side of the body.
        side: of a class with a partner: "right" or "left".
        snomed: SNOMED CT concept, as ID |term|; of a class inside an organ what it is, not where: neoplasm, vessel.
        volume_ml: typical volume in an adult, rounded; larger classes are painted first. 0: unknown, or a part of an
            organ; painted after all classes with a volume.
    """

    index: StrictInt
    name: Annotated[str, AfterValidator(_own_name)]
    prompt: Annotated[Text, Field(description="the noun that stands in the sentence")] = ""
    aliases: Names = ()
    parents: Names = ()
    partner: Annotated[str | None, Field(description="the name of one class")] = None
    volume_ml: Annotated[Finite, Field(ge=0, description="a volume in ml, for instance 80"), AsWritten] = 0
    side: Annotated[Literal["right", "left"] | None, Field(description="right or left, of the patient")] = None
    snomed: Annotated[Text, AfterValidator(_snomed_concept)] = ""

    def __post_init__(self):
        object.__setattr__(self, "prompt", self.prompt.strip() or self.name.replace("_", " "))
        object.__setattr__(self, "side", self.side or side_in_name(self))

    @property
    def lies_in_organ(self) -> bool:
        """Without a typical volume of its own: a tumour, a cyst, the vessels of the liver; no lobe."""
        return bool(self.parents) and not self.volume_ml


def side_in_name(row: ClassRow) -> str | None:
    """The side that a word of the name tells of a class with a partner: left_ovary, hip_r."""
    return _side_and_rest(row.name)[0] if row.partner else None


def look_paired(first: str, second: str) -> bool:
    """Do two names differ in the side only."""
    (side, rest), (other, of_other) = _side_and_rest(first), _side_and_rest(second)
    return rest == of_other and {side, other} == set(SIDES)


def _side_and_rest(name: str) -> tuple[str | None, list[str]]:
    words = name.split("_")
    found = {side for side in SIDES if side in words or words[-1:] == [side[0]]}
    if len(found) != 1:
        return None, words
    [side] = found
    return side, [word for word in words if word not in (side, side[0])]


def _row(
    index: int, name: str, snomed: str, volume_ml=0, prompt="", aliases="", parents="", partner: str | None = None
) -> ClassRow:
    """A row from comma-separated texts; the side of a paired class is told by its name."""
    split = lambda text: tuple(part.strip() for part in text.split(",") if part.strip())  # noqa: E731
    return ClassRow(index, name, prompt, split(aliases), split(parents), partner, volume_ml, snomed=snomed)


# Indices and extent: paper, Table 7, and the order of the published label files (facts, not code). SNOMED CT: DICOM
# part 16; portal and splenic vein as one structure: the table of TotalSegmentator. The side is no part of a code there.
UNIVERSAL_CLASSES: tuple[ClassRow, ...] = (
    _row(1, "spleen", "78961009 |Spleen|", 200),
    _row(2, "right_kidney", "64033007 |Kidney|", 160, aliases="kidney_right", partner="left_kidney"),
    _row(3, "left_kidney", "64033007 |Kidney|", 160, aliases="kidney_left", partner="right_kidney"),
    _row(4, "gallbladder", "28231008 |Gallbladder|", 35, prompt="gall bladder", aliases="gall_bladder"),
    _row(5, "esophagus", "32849002 |Esophagus|", 40, aliases="oesophagus"),
    _row(6, "liver", "10200004 |Liver|", 1500),
    _row(7, "stomach", "69695003 |Stomach|", 400),
    _row(8, "aorta", "15825003 |Aorta|", 150),
    _row(9, "postcava", "64131007 |Inferior vena cava|", 80, aliases="inferior_vena_cava, ivc, vena_cava"),
    _row(
        10,
        "portal_and_splenic_vein",
        "110765007 |Portal vein and splenic vein|",
        30,
        prompt="portal vein and splenic vein",
        aliases="portal_vein_and_splenic_vein, portal_splenic_vein, portal_vein",
    ),
    _row(11, "pancreas", "15776009 |Pancreas|", 80),
    _row(
        12,
        "right_adrenal_gland",
        "23451007 |Adrenal gland|",
        4,
        aliases="adrenal_gland_right, right_adrenal",
        partner="left_adrenal_gland",
    ),
    _row(
        13,
        "left_adrenal_gland",
        "23451007 |Adrenal gland|",
        4,
        aliases="adrenal_gland_left, left_adrenal",
        partner="right_adrenal_gland",
    ),
    _row(14, "duodenum", "38848004 |Duodenum|", 70),
    _row(15, "hepatic_vessel", "59820001 |Blood vessel|", aliases="hepatic_vessels, liver_vessel", parents="liver"),
    _row(16, "right_lung", "39607008 |Lung|", 2500, aliases="lung_right", partner="left_lung"),
    _row(17, "left_lung", "39607008 |Lung|", 2200, aliases="lung_left", partner="right_lung"),
    _row(18, "colon", "71854001 |Colon|", 700),
    _row(19, "intestine", "30315005 |Small intestine|", 800, aliases="small_bowel, small_intestine"),
    _row(20, "rectum", "34402009 |Rectum|", 60),
    _row(21, "bladder", "89837001 |Bladder|", 200, aliases="urinary_bladder"),
    _row(22, "prostate", "41216001 |Prostate|", 40),
    _row(
        23,
        "left_femur_head",
        "2812003 |Head of femur|",
        100,
        prompt="left head of femur",
        aliases="left_head_of_femur, left_femoral_head, femur_head_left",
        partner="right_femur_head",
    ),
    _row(
        24,
        "right_femur_head",
        "2812003 |Head of femur|",
        100,
        prompt="right head of femur",
        aliases="right_head_of_femur, right_femoral_head, femur_head_right",
        partner="left_femur_head",
    ),
    _row(25, "celiac_trunk", "57850000 |Celiac trunk|", 3, aliases="celiac_artery, coeliac_trunk"),
    _row(
        26,
        "kidney_tumor",
        "108369006 |Neoplasm|",
        aliases="kidney_tumour, kidney_cancer",
        parents="right_kidney, left_kidney",
    ),
    _row(27, "liver_tumor", "108369006 |Neoplasm|", aliases="liver_tumour, liver_cancer", parents="liver"),
    _row(
        28,
        "pancreas_tumor",
        "108369006 |Neoplasm|",
        aliases="pancreas_tumour, pancreatic_tumor, pancreas_cancer",
        parents="pancreas",
    ),
    _row(29, "hepatic_vessel_tumor", "108369006 |Neoplasm|", aliases="hepatic_vessel_tumour", parents="liver"),
    _row(30, "lung_tumor", "108369006 |Neoplasm|", aliases="lung_tumour, lung_cancer", parents="right_lung, left_lung"),
    _row(31, "colon_tumor", "108369006 |Neoplasm|", aliases="colon_tumour, colon_cancer", parents="colon"),
    _row(32, "kidney_cyst", "367643001 |Cyst|", aliases="renal_cyst", parents="right_kidney, left_kidney"),
)


@dataclass(frozen=True)
class Taxonomy:
    """An ordered set of classes with look-up by name, alias and index.

    Raises:
        UserError: two rows share an index or a name, or a parent or partner does not exist.
    """

    rows: tuple[ClassRow, ...] = UNIVERSAL_CLASSES
    source: str = "the built-in taxonomy"
    _by_name: dict[str, ClassRow] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        by_name: dict[str, ClassRow] = {}
        indices: dict[int, str] = {}
        for row in self.rows:
            if row.index in indices:
                found = f"classes {indices[row.index]!r} and {row.name!r} share index {row.index}"
                remedy = f"give {row.name!r} a free index from {FIRST_USER_INDEX} on"
                raise UserError(self.source, found, "one index per class", remedy)
            indices[row.index] = row.name
            for name in (row.name, *row.aliases):
                key = normalise(name)
                if key in by_name:
                    found = f"the name {name!r} of class {row.name!r} already means {by_name[key].name!r}"
                    raise UserError(self.source, found, "every name and alias once", "choose another name")
                by_name[key] = row
        object.__setattr__(self, "_by_name", by_name)
        for row in self.rows:
            for relative in (*row.parents, *filter(None, [row.partner])):
                if relative not in by_name or by_name[relative].name != relative:
                    found = f"class {row.name!r} names the parent or partner {relative!r}, which is not a class"
                    expected = f"a class name.{suggestion(relative, by_name)}"
                    raise UserError(self.source, found, expected, "correct the name or add the class")

    def __iter__(self) -> Iterator[ClassRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, name: str) -> bool:
        return normalise(name) in self._by_name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(row.name for row in self.rows)

    def find(self, name: str, where: object = "class name") -> ClassRow:
        """The class of this name or alias; a typo is answered with the nearest name.

        Raises:
            UserError: no such class.
        """
        row = self._by_name.get(normalise(name))
        if row is None:
            found = f"unknown class {name!r}.{suggestion(normalise(name), self._by_name)}"
            remedy = "correct the name, or add the class to your class table (index from 33 on)"
            raise UserError(where, found, f"one of {', '.join(self.names)}", remedy)
        return row

    def subset(self, names: Iterable[str]) -> tuple[ClassRow, ...]:
        """The rows of `names` in painting order: large before small, a sub-structure after the organ that holds it."""
        wanted = {self.find(name).name for name in names}
        return tuple(row for row in self.painting_order() if row.name in wanted)

    def ordered(self, names: Collection[str]) -> tuple[str, ...]:
        """Those of the taxonomy's names that are among `names`, in its order."""
        return tuple(name for name in self.names if name in names)

    def painting_order(self) -> tuple[ClassRow, ...]:
        """All rows from large to small, but never a child before one of its parents (nnU-Net paints in this order).

        A large organ that was found too large so never hides a small one next to it.

        Raises:
            UserError: the parents form a circle.
        """
        remaining = sorted(self.rows, key=lambda row: (-row.volume_ml, row.index))
        done: list[ClassRow] = []
        while remaining:
            waiting = {row.name for row in remaining}
            ready = next((row for row in remaining if not waiting.intersection(row.parents)), None)
            if ready is None:
                raise UserError(self.source, f"the parents of {sorted(waiting)} form a circle", "a tree of parents")
            done.append(ready)
            remaining.remove(ready)
        return tuple(done)

    def ancestors(self, name: str) -> frozenset[str]:
        """Every organ that can hold this class, over all generations."""
        found: set[str] = set()
        queue = list(self.find(name).parents)
        while queue:
            parent = queue.pop()
            if parent not in found:
                found.add(parent)
                queue.extend(self.find(parent).parents)
        return frozenset(found)

    def exclude_each_other(self, first: str, second: str) -> bool:
        """Can no voxel belong to both classes: neither lies inside the other, and no organ holds both."""
        return (self.ancestors(first) | {first}).isdisjoint(self.ancestors(second) | {second})

    def can_be(self, name: str, truth: Iterable[str], known: Collection[str]) -> bool:
        """Can a voxel belong to a class, as far as the truth of its case tells.

        It cannot where a drawn class excludes it, and where none of the organs that could hold it can be: no liver
        tumour outside an annotated liver. So a voxel of an organ is certainly healthy only where the class itself, or
        a class that must hold it, is known there: that another lesion is absent proves nothing.

        Args:
            truth: the classes that were drawn in the voxel.
            known: the classes whose truth is known in the case.
        """
        if name in known:
            return name in truth
        if any(self.exclude_each_other(name, other) for other in truth):
            return False
        parents = self.find(name).parents
        return not parents or any(self.can_be(parent, truth, known) for parent in parents)

    def descendants(self, name: str) -> frozenset[str]:
        """Every class that lies inside this one, over all generations."""
        own = self.find(name).name
        return frozenset(row.name for row in self.rows if own in self.ancestors(row.name))

    def to_json(self) -> list[dict]:
        """Every row as a table; a side that the name tells is left out."""
        rows = [asdict(row) for row in self.rows]
        for row, written in zip(self.rows, rows, strict=True):
            if row.side in (None, side_in_name(row)):
                del written["side"]
        return rows

    @classmethod
    def from_json(cls, rows: object, source: str) -> Taxonomy:
        """The inverse of `to_json`; also reads a user's rows, in which only index and name are required."""
        return cls(checked(_Classes, {"classes": rows}, source).classes, source)

    def extended(self, table: Path | str) -> Taxonomy:
        """This taxonomy plus the rows of a user's YAML table (key `classes`, indices from 33 on).

        Raises:
            UserError: the file cannot be read or a row does not fit.
        """
        remedy = "write classes: [{index: 33, name: renal_vein}]; see docs/classes.md"
        new = checked(_Classes, read_yaml(table, "a class table", remedy), table, remedy).classes
        for row in new:
            if not FIRST_USER_INDEX <= row.index <= LAST_USER_INDEX:
                raise UserError(
                    table,
                    f"class {row.name!r} has index {row.index}",
                    f"an index from {FIRST_USER_INDEX} to {LAST_USER_INDEX} (1 to 32 are the universal classes, and "
                    f"nnU-Net writes predictions with 8 bits)",
                )
        taxonomy = Taxonomy(self.rows + new, str(table))
        _require_sides(taxonomy)
        taxonomy.painting_order()  # a circle of parents is refused here, not after hours of conversion
        return taxonomy


def _require_sides(taxonomy: Taxonomy) -> None:
    """Raises UserError when it is not certain what the pairs are, and which class of each is the right one."""
    for row in taxonomy:
        if row.partner and (row.side is None or row.side == taxonomy.find(row.partner).side):
            found = f"it is not certain on which side class {row.name!r} lies ('side' is {row.side or 'not given'})"
            expected = f"{row.name!r} on one side, its partner {row.partner!r} on the other"
            raise UserError(taxonomy.source, found, expected, f"add 'side: right' or 'side: left' to {row.name!r}")
        if row.partner and taxonomy.find(row.partner).partner != row.name:
            found = f"class {row.name!r} names the partner {row.partner!r}, but not the other way round"
            raise UserError(taxonomy.source, found, "partners that name each other", f"correct {row.partner!r}")


UNIVERSAL = Taxonomy()


@dataclass(frozen=True)
class _Classes:
    classes: tuple[ClassRow, ...]


def class_name(name: str, info: ValidationInfo[Any]) -> str:
    """For validators: the name of the class that a table calls by its name or an alias."""
    return info.context.find(name).name


def _each_once(table: Any, check: Any) -> Any:
    found = check(table or {})
    if table and len(found) < len(table):
        raise UserError("", f"names a class twice: {', '.join(table)}", "one entry per class")
    return found


# In tables that are checked with the taxonomy as context.
ClassName = Annotated[str, AfterValidator(class_name)]
ClassNames = Annotated[tuple[ClassName, ...], Field(description="a list of names of classes"), NoneIsEmpty]
PerClass = Annotated[dict[ClassName, TypeVar("T")], WrapValidator(_each_once)]


def require_one_state(first: Iterable[str], second: Iterable[str], states: str) -> None:
    """Raises a UserError without a place if a class is in both."""
    if both := sorted(set(first) & set(second)):
        raise UserError("", f"{both} are {states} at once", "one of the two", "correct one list")
