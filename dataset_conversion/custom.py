"""The user's own dataset, described by a YAML table.

name: my_hospital                     # case identifiers start with it
images: images/{case}.nii.gz          # relative to the table; {case} is the part that names the case, * any text
labels: labels/{case}_seg.nii.gz
values:                               # label value -> class, classes, nothing, or ignore (unknown for all classes)
  1: liver
  2: liver_tumor                      # the liver is added where it is annotated
  3: [right_kidney, left_kidney]      # both under one value: split by position; a lesion goes with its organ
  255: ignore
  9: {classes: spleen, unknown: [liver]}   # spleen, and nobody looked for the liver there; `classes` may be missing
annotated: [liver, liver_tumor]       # default: every class named in `values`
absent: [spleen]                      # classes known not to occur; default none
incomplete: [liver_tumor]             # what is drawn of them is true, the rest is unknown, in every case; default none
incomplete_in: {case_9: [liver]}      # case -> classes that are annotated elsewhere, and incomplete there
root: /data/my_hospital               # default: the folder of the table
modality: MRI                         # nnU-Net's channel name; default CT. Others than CT are normalised by z-score
patient: ^[^_]+                       # regular expression: the part of the case's name that names the patient
left_out: {case_7: wrong organ}       # case -> why it is not converted

Instead of `labels` and `values`, one mask file per class:

masks:
  liver: segmentations/{case}/liver.nii.gz
  left_lung: [segmentations/{case}/upper_lobe.nii.gz, segmentations/{case}/lower_lobe.nii.gz]   # all of them together
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, StrictInt, ValidationInfo, model_validator

from nnunetv2_clip.classes import ClassNames, PerClass, Taxonomy, class_name, look_paired, require_one_state
from nnunetv2_clip.conversion.laterality import Pair
from nnunetv2_clip.conversion.lesions import lacks_organ, pairs_of
from nnunetv2_clip.conversion.patterns import PATTERN, PLACEHOLDER, Pattern, find_by_pattern
from nnunetv2_clip.conversion.source import MaskSource, Source, SourceCase, listed, match_pairs, without
from nnunetv2_clip.errors import UserError, suggestion
from nnunetv2_clip.imaging.intake import CT
from nnunetv2_clip.labels import IGNORE, ClassMap, occurring_values, plain, unknown_in, unknown_of
from nnunetv2_clip.tables import Row, Text, checked, quoted, read_yaml


@dataclass(frozen=True)
class NamedSource(Source):
    """A source in which a part of the case's name, the text at {case}, may tell the patient.

    Attributes:
        patient: searched in the name; its first group that is not empty, or all of it. None: nothing is known.
        incomplete_cases: name -> classes that are incomplete there, though others annotate them.
    """

    patient: re.Pattern[str] | None = None
    incomplete_cases: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    def name_of(self, case: SourceCase) -> str:
        """The text at {case}."""
        return case.case_id.removeprefix(self.name).removeprefix("_")

    def patient_of(self, case: SourceCase) -> str:
        match = self.patient.search(self.name_of(case)) if self.patient else None
        return next(filter(None, match.groups()), match[0]) if match else ""

    def incomplete_in(self, case: SourceCase) -> tuple[str, ...]:
        return (*self.incomplete, *self.incomplete_cases.get(self.name_of(case), ()))

    def checked(self, cases: list[SourceCase]) -> list[SourceCase]:
        """The cases themselves.

        Raises:
            UserError: the name of one of them does not tell the patient, or the table speaks of another one.
        """
        names = {*self.left_out, *map(self.name_of, cases)}
        strange = next((name for name in self.incomplete_cases if name not in names), None)
        if strange is not None:
            found = f"'incomplete_in' names the case {strange!r}, which is not there.{suggestion(strange, names)}"
            raise UserError(self.unpack, found, "names as they stand at {case}")
        unnamed = [self.name_of(case) for case in cases if self.patient and not self.patient_of(case)]
        if unnamed:
            found = f"'patient' {self.patient.pattern!r} finds no patient in {listed(unnamed)}"
            remedy = "correct 'patient' in the table, for instance to ^[^_]+ (all before the first _)"
            raise UserError(self.unpack, found, "a regular expression that fits the name of every case", remedy)
        return cases

    def remarks(self, root: Path, cases: Sequence[SourceCase]) -> list[str]:
        scans: dict[str, list[str]] = defaultdict(list)
        for name in map(self.name_of, cases) if not self.patient else ():
            if match := re.fullmatch(TIME_POINT, name, re.IGNORECASE):
                scans[match["patient"]].append(name)
        several = next((names for names in scans.values() if len(names) > 1), None)
        hint = "may be one patient, but may stand in different folds: 'patient' in the table keeps patients together"
        return [f"{' and '.join(several[:2])} {hint}"] if several else []

    def settings(self) -> dict:
        incomplete = {name: list(classes) for name, classes in self.incomplete_cases.items()}
        return {
            **super().settings(),
            **({"patient": self.patient.pattern} if self.patient else {}),
            **({"incomplete_in": incomplete} if incomplete else {}),
        }


@dataclass(frozen=True)
class CustomSource(NamedSource):
    """Files found by pattern.

    Attributes:
        images, labels: patterns below the root folder.
        ignored: label values that are unknown for every class.
        unknown: label value -> annotated classes that are unknown in its voxels.
        others_are_background: label values without a row in the table are allowed and mean nothing.
    """

    images: str = ""
    labels: str = ""
    ignored: tuple[int, ...] = ()
    unknown: Mapping[int, frozenset[str]] = field(default_factory=dict, hash=False)
    others_are_background: bool = False

    def find_cases(self, root: Path) -> list[SourceCase]:
        images, labels = find_by_pattern(root, self.images), find_by_pattern(root, self.labels)
        if PLACEHOLDER not in self.labels:
            labels = dict.fromkeys(images, next(iter(labels.values()))) if len(images) == 1 else labels
        pairs = match_pairs(without(images, self.left_out), without(labels, self.left_out), root)
        return self.checked([self.case(key, image, {"label": label}) for key, image, label in pairs])

    def labels_of(self, label_map: np.ndarray) -> ClassMap:
        others = dict.fromkeys(occurring_values(label_map).tolist(), ()) if self.others_are_background else {}
        table = {value: {*names, *unknown_of(self.unknown.get(value, ()))} for value, names in self.label_table.items()}
        return ClassMap(label_map, {**others, **table, **dict.fromkeys(self.ignored)})

    def settings(self) -> dict:
        unknown = {str(value): sorted(names) for value, names in self.unknown.items()}
        return {
            **super().settings(),
            "images": self.images,
            "labels": self.labels,
            "ignored": list(self.ignored),
            "others_are_background": self.others_are_background,
            **({"unknown": unknown} if unknown else {}),
        }


@dataclass(frozen=True)
class CustomMaskSource(NamedSource, MaskSource):
    """Images and masks found by pattern.

    Attributes:
        images: pattern below the root folder.
        masks: role -> pattern of a mask; every case has all of them.
    """

    images: str = ""
    masks: Mapping[str, str] = field(default_factory=dict, hash=False)
    mask_values, mask_remedy = "0 and one other", "use 'labels' and 'values' for label maps"

    def is_mask(self, values: np.ndarray) -> bool:
        return len(values) <= 2 and values[0] >= 0

    def find_cases(self, root: Path) -> list[SourceCase]:
        images = without(find_by_pattern(root, self.images), self.left_out)
        files = {role: find_by_pattern(root, pattern) for role, pattern in self.masks.items()}
        for role, found in files.items():
            missing = sorted(set(images) - set(found))
            if missing:
                raise UserError(
                    root,
                    f"case {missing[0]!r} has no mask {self.masks[role]!r}"
                    + (f", nor have {len(missing) - 1} others" if len(missing) > 1 else ""),
                    "every mask for every image (empty where the class does not occur)",
                    "correct the pattern, or convert these cases with a table of their own",
                )
        cases = [self.case(key, image, {role: files[role][key] for role in files}) for key, image in images.items()]
        return self.checked(cases)

    def settings(self) -> dict:
        return {**super().settings(), "images": self.images, "masks": dict(self.masks)}


def _meaning(given: object, info: ValidationInfo[Any]) -> tuple[str, ...] | None:
    """The classes of a label value, and marked those that are unknown there; None: to be ignored."""
    if isinstance(given, dict) and given and set(given) <= {"classes", "unknown"}:
        classes, unknown = (_meaning(given.get(key), info) for key in ("classes", "unknown"))
        if classes is None or unknown is None or set(classes) & set(unknown):
            raise UserError("", f"stands for {quoted(given)}", "classes that are there, and others that are unknown")
        return *classes, *sorted(unknown_of(unknown))
    names = [given] if isinstance(given, str) else given or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError("", f"stands for {quoted(given)}", "a class or a list of classes")
    return None if given == IGNORE else tuple(class_name(name, info) for name in names)


_Meaning = Annotated[tuple[str, ...] | None, BeforeValidator(_meaning)]
_Values = dict[Annotated[StrictInt, Field(ge=0)], _Meaning]
_OneOrMore = BeforeValidator(lambda given: given if given and isinstance(given, list) else [given])
_Masks = PerClass[Annotated[tuple[Annotated[Pattern, Field(pattern=re.escape(PLACEHOLDER))], ...], _OneOrMore]]
PATIENT = "a regular expression such as ^[^_]+ (all before the first _)"
# Names of scans of one patient: p07_t0, p07_t1; 12_baseline, 12_followup.
TIME_POINT = r"(?P<patient>.*\d.*?)[_-](?:t|tp|time|visit|v|ses|session|scan|fu|followup|baseline|pre|post)[-_]?\d*"
VALUES = "a table label value -> class, values from 0 on"
MASKS = f"for each class {PATTERN}, always a pattern with {PLACEHOLDER}"


@dataclass(frozen=True)
class CustomTable(Row):
    """The table as it is written: with `labels` and `values`, or with `masks`."""

    name: Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9_-]*$", description="letters, digits, _ and -")]
    images: Pattern
    labels: Pattern = ""
    values: Annotated[_Values, Field(min_length=1, description=VALUES)] = field(default_factory=dict)
    masks: Annotated[_Masks, Field(min_length=1, description=MASKS)] = field(default_factory=dict)
    annotated: ClassNames = None  # those of `values` or `masks` that are not incomplete
    absent: ClassNames = ()
    incomplete: ClassNames = ()
    incomplete_in: dict[str, ClassNames] = field(default_factory=dict)
    other_values: Annotated[Literal["background"] | None, Field(description="background, or no such key")] = None
    root: Text = ""
    title: Text = ""
    licence: Text = "not stated"
    url: Text = ""
    patient: Annotated[re.Pattern[str] | None, Field(description=PATIENT)] = None
    left_out: dict[str, Text] = field(default_factory=dict)
    modality: Annotated[str, Field(pattern=r"^\w+$", description="one word such as CT or MRI")] = CT

    def __post_init__(self):
        if self.annotated is None:
            object.__setattr__(self, "annotated", tuple(self._named() - set(self.incomplete)))

    def _named(self) -> set[str]:
        """Classes for which a label value or a mask stands."""
        return set(self.masks or plain(chain.from_iterable(classes or () for classes in self.values.values())))

    @model_validator(mode="after")
    def _fits_together(self) -> CustomTable:
        given = [key for key in ("labels", "values", "other_values") if getattr(self, key)]
        missing = [key for key in ("labels", "values") if key not in given]
        foreign = sorted({*self.annotated, *self.incomplete} - self._named())
        if self.masks and given:
            raise UserError("", f"has 'masks' and {given}", "masks, or a label map with values", "remove one of them")
        if missing and not self.masks:
            raise UserError("", f"lacks {missing}", "'labels' and 'values', or 'masks'")
        if foreign:
            state = "annotated" if set(foreign) & set(self.annotated) else "incomplete"
            found = f"{state} names {foreign}, but no label value or mask stands for it"
            remedy = "add the label value or mask, or list the class under 'absent' if it is known not to occur"
            raise UserError("", found, f"{state} classes that occur in 'values' or 'masks'", remedy)
        for value, classes in self.values.items():
            if strange := sorted(unknown_in(classes or ()) - set(self.annotated)):
                found = f"label value {value} says that {strange} are unknown there, but no case annotates them"
                raise UserError("", found, "unknown voxels of annotated classes", "take the class out of 'unknown'")
        if not self.annotated and not self.incomplete:
            raise UserError("", "no class is annotated", "at least one")
        require_one_state(self.annotated, self.absent, "annotated and absent")
        require_one_state({*self.annotated, *self.absent}, self.incomplete, "incomplete and annotated or absent")
        for case, names in self.incomplete_in.items():
            if others := sorted(set(names) - set(self.annotated)):
                state = "absent" if set(others) <= set(self.absent) else "not annotated"
                found = f"{others} are incomplete in case {case!r}, but {state} in all cases"
                raise UserError("", found, "classes out of 'annotated'", "correct one of the lists")
        return self


def read_table(path: Path, taxonomy: Taxonomy) -> tuple[CustomSource | CustomMaskSource, Path]:
    """The source that a YAML table describes, and the folder in which it lies.

    Raises:
        UserError: unreadable, an unknown or missing key, or a class that does not exist.
    """
    table = checked(CustomTable, read_yaml(path, "a table of a custom source"), path, context=taxonomy)
    classes_of = {value: tuple(plain(classes or ())) for value, classes in table.values.items()}
    unknown = {value: found for value, classes in table.values.items() if (found := unknown_in(classes or ()))}
    label_table, pairs = _split_off_pairs(path, classes_of, taxonomy)
    modality = CT if table.modality.upper() == CT else table.modality
    if pairs and modality != CT:
        raise UserError(path, f"both sides under one value, modality {modality}", "CT: the split looks for the spine")
    facts = dict(
        **{key: getattr(table, key) for key in ("name", "licence", "url", "images", "patient", "left_out")},
        incomplete_cases=table.incomplete_in,
        title=table.title or table.name,
        unpack=f"the folder that {path} describes",
        num_cases=None,
        label_table=label_table,
        annotated=taxonomy.ordered(table.annotated),
        absent=taxonomy.ordered(table.absent),
        incomplete=taxonomy.ordered(table.incomplete),
        pairs=pairs,
        modality=modality,
    )
    root = path.parent / Path(table.root).expanduser()
    if table.masks:
        masks, structures = {}, {}
        for name, patterns in table.masks.items():
            for number, pattern in enumerate(patterns, start=1):
                masks[f"{name}_{number}"], structures[f"{name}_{number}"] = pattern, (name,)
        return CustomMaskSource(**facts, masks=masks, structures=structures), root
    ignored = tuple(value for value, classes in table.values.items() if classes is None)
    others = table.other_values is not None
    options = {"labels": table.labels, "ignored": ignored, "others_are_background": others, "unknown": unknown}
    return CustomSource(**facts, **options), root


def _split_off_pairs(
    path: Path, table: dict[int, tuple[str, ...]], taxonomy: Taxonomy
) -> tuple[dict, tuple[Pair, ...]]:
    """The label table without organs of both sides that stand under one value, and these as pairs.

    Values of lesions whose side is not told belong to the pair: such a lesion is on the side of its organ.
    """
    pairs = []
    _require_partners(path, table, taxonomy)
    for organs in pairs_of(taxonomy):
        both = [value for value, classes in table.items() if set(organs) <= set(classes)]
        single = [value for value, classes in table.items() if len(set(organs) & set(classes)) == 1]
        if both and single:
            found = (
                f"label value {both[0]} stands for {organs[0]} and {organs[1]}, label value {single[0]} for one of them"
            )
            raise UserError(path, found, "values for both sides, or values for each side")
        if both:
            lesions = [value for value, classes in table.items() if lacks_organ(frozenset(classes), organs, taxonomy)]
            table = {value: tuple(name for name in classes if name not in organs) for value, classes in table.items()}
            pairs.append(Pair(*organs, tuple(sorted({*both, *lesions}))))
    return table, tuple(pairs)


def _require_partners(path: Path, table: dict[int, tuple[str, ...]], taxonomy: Taxonomy) -> None:
    """Raises UserError: a value stands for a right and a left class that the taxonomy does not know as a pair."""
    for value, classes in table.items():
        for first, second in combinations(classes, 2):
            if look_paired(first, second) and taxonomy.find(first).partner != second:
                found = f"label value {value} stands for {first} and {second}, which are not partners of each other"
                remedy = f"add 'partner: {second}' to {first} in the table of classes (--taxonomy), and the reverse"
                raise UserError(path, found, "a pair, which is split by position, or values for each side", remedy)
