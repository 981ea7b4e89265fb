"""The user's own dataset, described by a YAML table.

name: my_hospital                     # case identifiers start with it
images: images/{case}.nii.gz          # relative to the table; {case} is the part that names the case, * any text
labels: labels/{case}_seg.nii.gz
values:                               # label value -> class, classes, nothing, or ignore (unknown for all classes)
  1: liver
  2: liver_tumor                      # the liver is added where it is annotated
  3: [right_kidney, left_kidney]      # both under one value: split by position; a lesion goes with its organ
  255: ignore
annotated: [liver, liver_tumor]       # default: every class named in `values`
absent: [spleen]                      # classes known not to occur; default none
root: /data/my_hospital               # default: the folder of the table
modality: MRI                         # nnU-Net's channel name; default CT. Others than CT are normalised by z-score

Instead of `labels` and `values`: `masks`, one file per class (custom_masks.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.conversion.laterality import Pair
from nnunetv2_clip.conversion.lesions import lacks_organ, pairs_of
from nnunetv2_clip.conversion.patterns import PLACEHOLDER, find_by_pattern
from nnunetv2_clip.conversion.source import CT, LoadedCase, Source, SourceCase, match_pairs
from nnunetv2_clip.dataset_conversion.custom_masks import CustomMaskSource
from nnunetv2_clip.errors import UserError, suggestion
from nnunetv2_clip.imaging.nifti import SUFFIXES, read_pair
from nnunetv2_clip.labels import IGNORE, ClassMap, occurring_values

KEYS = (
    "name",
    "images",
    "labels",
    "values",
    "masks",
    "annotated",
    "absent",
    "other_values",
    "root",
    "title",
    "licence",
    "url",
    "modality",
)
REQUIRED = ("name", "images", "labels", "values")
REQUIRED_WITH_MASKS = ("name", "images", "masks")


@dataclass(frozen=True)
class CustomSource(Source):
    """Files found by pattern.

    Attributes:
        images, labels: patterns below the root folder.
        ignored: label values that are unknown for every class.
        others_are_background: label values without a row in the table are allowed and mean nothing.
    """

    images: str = ""
    labels: str = ""
    ignored: tuple[int, ...] = ()
    others_are_background: bool = False

    def find_cases(self, root: Path) -> list[SourceCase]:
        if not root.is_dir():
            raise UserError(root, "is no folder", self.unpack, "correct 'root' in the table")
        images, labels = find_by_pattern(root, self.images), find_by_pattern(root, self.labels)
        for pattern, found in (("images", images), ("labels", labels)):
            if not found:
                raise UserError(
                    root,
                    f"no file fits {pattern}: {getattr(self, pattern)!r}",
                    "at least one .nii or .nii.gz file",
                    "correct the pattern or 'root' in the table",
                )
        if PLACEHOLDER not in self.labels:
            labels = dict.fromkeys(images, next(iter(labels.values()))) if len(images) == 1 else labels
        return [
            SourceCase(f"{self.name}_{key}" if key else self.name, image, {"label": label})
            for key, image, label in match_pairs(images, labels, root)
        ]

    def load_case(self, case: SourceCase) -> LoadedCase:
        image, label = read_pair(case.image, case.labels["label"])
        others = dict.fromkeys(occurring_values(label.data).tolist(), ()) if self.others_are_background else {}
        sets = {**others, **self.label_table, **dict.fromkeys(self.ignored)}
        return self.interpret(image, ClassMap(label.data, sets))

    def settings(self) -> dict:
        return {
            **super().settings(),
            "images": self.images,
            "labels": self.labels,
            "ignored": list(self.ignored),
            "others_are_background": self.others_are_background,
        }


def read_table(path: Path, taxonomy: Taxonomy) -> tuple[CustomSource | CustomMaskSource, Path]:
    """The source that a YAML table describes, and the folder in which it lies.

    Raises:
        UserError: unreadable, an unknown or missing key, or a class that does not exist.
    """
    table = _load(path)
    name = table["name"]
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise UserError(path, f"name: {name!r}", "letters, digits, _ and -")
    _check_pattern(path, "images", table["images"])
    modality = table.get("modality", CT)
    if not isinstance(modality, str) or not re.fullmatch(r"\w+", modality):
        raise UserError(path, f"modality: {modality!r}", "one word such as CT or MRI")
    if "masks" in table:
        masks = _read_masks(path, table["masks"], taxonomy)
        label_table, ignored, named, pairs = {}, (), set(masks), ()
    else:
        _check_pattern(path, "labels", table["labels"])
        label_table, ignored = _read_values(path, table["values"], taxonomy)
        named = {class_name for classes in label_table.values() for class_name in classes}
        label_table, pairs = _split_off_pairs(path, label_table, taxonomy)
        if pairs and modality.upper() != CT:
            raise UserError(
                path, f"both sides under one value, modality {modality}", "CT: the split looks for the spine"
            )
    if table.get("other_values", "background") != "background":
        raise UserError(path, f"other_values: {table['other_values']!r}", "background, or no such key")
    annotated = _class_list(path, "annotated", table, taxonomy) if "annotated" in table else named
    absent = _class_list(path, "absent", table, taxonomy)
    if annotated - named:
        raise UserError(
            path,
            f"annotated names {sorted(annotated - named)}, but no label value or mask stands for it",
            "annotated classes that occur in 'values' or 'masks'",
            "add the label value or mask, or list the class under 'absent' if it is known not to occur",
        )
    if annotated & absent:
        raise UserError(path, f"{sorted(annotated & absent)} are annotated and absent at once", "one of the two")
    if not annotated:
        raise UserError(path, "no class is annotated", "at least one")
    facts = dict(
        name=name,
        modality=CT if modality.upper() == CT else modality,
        title=str(table.get("title", name)),
        licence=str(table.get("licence", "not stated")),
        url=str(table.get("url", "")),
        unpack=f"the folder that {path} describes",
        num_cases=None,
        label_table=label_table,
        annotated=_ordered(annotated, taxonomy),
        absent=_ordered(absent, taxonomy),
        pairs=pairs,
        images=table["images"],
    )
    if "masks" in table:
        source = CustomMaskSource(**facts, masks=masks)
    else:
        others = "other_values" in table
        source = CustomSource(**facts, labels=table["labels"], ignored=ignored, others_are_background=others)
    return source, path.parent / Path(str(table.get("root", "."))).expanduser()


def _load(path: Path) -> dict:
    import yaml

    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(path, f"cannot be read as YAML ({error})", "a table of a custom source") from None
    if not isinstance(table, dict):
        raise UserError(path, "is no table", f"the keys {', '.join(REQUIRED)}")
    for key in table:
        if key not in KEYS:
            raise UserError(path, f"unknown key {key!r}.{suggestion(str(key), KEYS)}", f"keys out of {list(KEYS)}")
    required = REQUIRED_WITH_MASKS if "masks" in table else REQUIRED
    missing = [key for key in required if key not in table]
    if missing:
        raise UserError(path, f"lacks {missing}", f"the keys {', '.join(required)}")
    both = [key for key in ("labels", "values", "other_values") if key in table and "masks" in table]
    if both:
        raise UserError(path, f"has 'masks' and {both}", "masks, or a label map with values", "remove one of the two")
    return table


def _check_pattern(path: Path, key: str, pattern: object) -> None:
    if not isinstance(pattern, str) or not pattern.endswith(SUFFIXES) or pattern.startswith("/") or "**" in pattern:
        raise UserError(path, f"{key}: {pattern!r}", "a pattern below 'root' such as images/{case}.nii.gz")


def _read_values(path: Path, values: object, taxonomy: Taxonomy) -> tuple[dict[int, tuple[str, ...]], tuple[int, ...]]:
    """The label table and the values that are to be ignored."""
    if not isinstance(values, dict) or not values:
        raise UserError(path, f"values: {values!r}", "a table label value -> class")
    table: dict[int, tuple[str, ...]] = {}
    ignored = []
    for value, classes in values.items():
        where = f"{path}, label value {value!r}"
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise UserError(where, "is no label value", "an integer from 0 on")
        if classes == IGNORE:
            ignored.append(value)
            classes = []
        names = [classes] if isinstance(classes, str) else classes or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(where, f"stands for {classes!r}", "a class or a list of classes")
        table[value] = tuple(taxonomy.find(name, where).name for name in names)
    return table, tuple(ignored)


def _split_off_pairs(
    path: Path, table: dict[int, tuple[str, ...]], taxonomy: Taxonomy
) -> tuple[dict, tuple[Pair, ...]]:
    """The label table without organs of both sides that stand under one value, and these as pairs.

    Values of lesions whose side is not told belong to the pair: such a lesion is on the side of its organ.
    """
    pairs = []
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


def _read_masks(path: Path, masks: object, taxonomy: Taxonomy) -> dict[str, tuple[str, ...]]:
    """Class -> patterns of its masks."""
    if not isinstance(masks, dict) or not masks:
        raise UserError(path, f"masks: {masks!r}", "a table class -> pattern")
    found: dict[str, tuple[str, ...]] = {}
    for given, patterns in masks.items():
        name = taxonomy.find(str(given), f"{path}, masks").name
        each = patterns if isinstance(patterns, list) and patterns else [patterns]
        for pattern in each:
            _check_pattern(path, f"masks, {given}", pattern)
            if PLACEHOLDER not in pattern:
                raise UserError(path, f"masks, {given}: {pattern!r}", f"a pattern with {PLACEHOLDER}")
        if name in found:
            raise UserError(path, f"masks names {name!r} twice", "one entry per class", "list its files in one entry")
        found[name] = tuple(each)
    return found


def _class_list(path: Path, key: str, table: dict, taxonomy: Taxonomy) -> set[str]:
    names = table.get(key) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(path, f"{key}: {names!r}", "a list of classes")
    return {taxonomy.find(name, f"{path}, {key}").name for name in names}


def _ordered(names: set[str], taxonomy: Taxonomy) -> tuple[str, ...]:
    return tuple(row.name for row in taxonomy if row.name in names)
