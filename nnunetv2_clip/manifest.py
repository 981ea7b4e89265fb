"""The label-presence manifest: which classes each case annotates, and where the case comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from nnunetv2_clip import __version__
from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.errors import UserError, suggestion
from nnunetv2_clip.files import read_json, write_json

SCHEMA_VERSION = 1
FILE_NAME = "label_presence.json"


@dataclass(frozen=True)
class CasePresence:
    """What is known about one case.

    Attributes:
        dataset: name of the source dataset.
        annotated: classes that were drawn wherever they occur in this case (they may be empty).
        absent: classes that are known not to occur in this case (supervised as empty).
        pseudo: class -> weight in the loss, above 0 and at most 1, of classes that a model has labelled here. They
            are no truth: they supervise training and nothing else.
        group: cases that show the same scan share a group and never stand on both sides of a split.
        source_files: role (image, label, ...) -> path as it was converted.
        checksums: role -> SHA-256 of that file; "voxels" -> fingerprint of the image's voxels.
        geometry_fixes: repairs that the converter applied, in words.
    """

    dataset: str
    annotated: tuple[str, ...]
    absent: tuple[str, ...] = ()
    group: str = ""
    source_files: dict[str, str] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    geometry_fixes: tuple[str, ...] = ()
    pseudo: dict[str, float] = field(default_factory=dict)

    @property
    def known(self) -> frozenset[str]:
        """Classes whose truth is known in this case: annotated, or known to be absent."""
        return frozenset(self.annotated) | frozenset(self.absent)

    @property
    def supervised(self) -> frozenset[str]:
        """Classes that give loss in this case: those whose truth is known, and those that a model has labelled."""
        return self.known | frozenset(self.pseudo)


@dataclass(frozen=True, repr=False)
class Manifest:
    """All cases of a merge and the taxonomy that they speak of."""

    taxonomy: Taxonomy
    cases: dict[str, CasePresence]
    where: str = FILE_NAME

    def __repr__(self) -> str:  # thousands of cases do not belong into logs
        return f"Manifest({self.where}: {len(self.cases)} cases)"

    def presence(self, case_ids: Iterable[str], class_names: Iterable[str]) -> np.ndarray:
        """(B, K) bool: is the truth of class k known in case b. Pseudo labels do not count.

        Raises:
            UserError: a case is not in the manifest.
        """
        names = list(class_names)
        rows = []
        for case_id in case_ids:
            known = self.case(case_id).known
            rows.append([name in known for name in names])
        return np.array(rows, dtype=bool).reshape(len(rows), len(names))

    def weights(self, case_ids: Iterable[str], class_names: Iterable[str]) -> np.ndarray:
        """(B, K) float32: weight of class k in the loss of case b: 1 for truth, 0 where nothing is known.

        Raises:
            UserError: a case is not in the manifest.
        """
        case_ids, names = list(case_ids), list(class_names)
        weights = self.presence(case_ids, names).astype(np.float32)
        for row, case_id in zip(weights, case_ids, strict=True):
            pseudo = self.case(case_id).pseudo
            for k, name in enumerate(names):
                row[k] = pseudo.get(name, row[k])
        return weights

    @property
    def has_pseudo_labels(self) -> bool:
        return any(case.pseudo for case in self.cases.values())

    def case(self, case_id: str) -> CasePresence:
        """The entry of one case.

        Raises:
            UserError: the case is not in the manifest.
        """
        if case_id not in self.cases:
            raise UserError(
                self.where,
                f"case {case_id!r} is missing.{suggestion(case_id, self.cases)}",
                "an entry for every case of the dataset",
                "run 'nnunetv2_clip convert' again, or add the case with its annotated classes",
            )
        return self.cases[case_id]

    def supervised_classes(self) -> tuple[str, ...]:
        """Every class that some case supervises, in painting order."""
        names = set().union(*(case.supervised for case in self.cases.values()))
        return tuple(row.name for row in self.taxonomy.subset(names))

    def count_cases(self) -> dict[str, dict]:
        """Source dataset -> {"cases": number of cases, "supervised": {class: number of cases that supervise it}}.

        Where a model has labelled classes, "pseudo" tells how many of these cases hold no truth of the class.
        """
        counts: dict[str, dict] = {}
        for case in self.cases.values():
            entry = counts.setdefault(case.dataset, {"cases": 0, "supervised": {}})
            entry["cases"] += 1
            for row in self.taxonomy.subset(case.supervised):
                entry["supervised"][row.name] = entry["supervised"].get(row.name, 0) + 1
            for row in self.taxonomy.subset(case.pseudo):
                pseudo = entry.setdefault("pseudo", {})
                pseudo[row.name] = pseudo.get(row.name, 0) + 1
        return dict(sorted(counts.items()))

    def save(self, path: Path | str) -> None:
        """Write the file; a reader never sees half a manifest."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "created_by": f"nnunetv2_clip {__version__}",
            "classes": self.taxonomy.to_json(),
            "cases": {case_id: _entry(case) for case_id, case in sorted(self.cases.items())},
        }
        write_json(path, content)

    @classmethod
    def load(cls, path: Path | str) -> Manifest:
        """Read and check a manifest.

        Raises:
            UserError: not there, no JSON, another schema, an unknown class, a class in two states, or a weight that
                is none.
        """
        content = read_json(path, "run 'nnunetv2_clip convert', which writes it")
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA_VERSION:
            raise UserError(
                path,
                f"schema_version is {version!r}",
                f"{SCHEMA_VERSION}",
                "convert again with this version, or install the version of nnunetv2_clip that wrote the file",
            )
        if not isinstance(content.get("classes"), list) or not isinstance(content.get("cases"), dict):
            raise UserError(path, "lacks the list 'classes' or the table 'cases'", "both", "convert again")
        taxonomy = Taxonomy.from_json(content["classes"], str(path))
        cases = {case_id: _parse_case(path, case_id, entry, taxonomy) for case_id, entry in content["cases"].items()}
        return cls(taxonomy, cases, str(path))


def _entry(case: CasePresence) -> dict:
    """As JSON. Without pseudo labels as it was before there were any, so that older versions read it."""
    return {key: value for key, value in asdict(case).items() if key != "pseudo" or value}


def _parse_case(path: Path | str, case_id: str, entry: object, taxonomy: Taxonomy) -> CasePresence:
    where = f"{path}, case {case_id!r}"
    if not isinstance(entry, dict):
        raise UserError(where, f"the entry is {entry!r}", "a table with 'dataset' and 'annotated'")
    unknown = sorted(set(entry) - set(CasePresence.__dataclass_fields__))
    if unknown:
        raise UserError(where, f"unknown keys {unknown}", f"keys out of {list(CasePresence.__dataclass_fields__)}")
    if not isinstance(entry.get("dataset"), str) or "annotated" not in entry:
        raise UserError(where, "lacks 'dataset' or 'annotated'", "both")
    lists = {}
    for key in ("annotated", "absent", "geometry_fixes"):
        value = entry.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise UserError(where, f"{key!r} is {value!r}", "a list of names")
        lists[key] = value
    for key in ("annotated", "absent"):
        lists[key] = [taxonomy.find(name, where).name for name in lists[key]]
    both = sorted(set(lists["annotated"]) & set(lists["absent"]))
    if both:
        raise UserError(where, f"{both} are annotated and absent at once", "one of the two", "correct one list")
    tables = {}
    for key in ("source_files", "checksums", "pseudo"):
        tables[key] = entry.get(key, {})
        if not isinstance(tables[key], dict):
            expected = "a table class -> weight" if key == "pseudo" else "a table role -> text"
            raise UserError(where, f"{key!r} is {tables[key]!r}", expected)
    return CasePresence(
        dataset=entry["dataset"],
        annotated=tuple(lists["annotated"]),
        absent=tuple(lists["absent"]),
        group=str(entry.get("group") or case_id),
        source_files=tables["source_files"],
        checksums=tables["checksums"],
        geometry_fixes=tuple(lists["geometry_fixes"]),
        pseudo=_parse_pseudo(where, tables["pseudo"], {*lists["annotated"], *lists["absent"]}, taxonomy),
    )


def _parse_pseudo(where: str, table: dict, known: set[str], taxonomy: Taxonomy) -> dict[str, float]:
    weights = {taxonomy.find(name, where).name: weight for name, weight in table.items()}
    both = sorted(known & set(weights))
    if both:
        raise UserError(where, f"{both} are pseudo labels and annotated or absent at once", "truth or pseudo label")
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= 1:
            raise UserError(where, f"the weight of {name!r} in 'pseudo' is {weight!r}", "above 0, at most 1")
    return {name: float(weight) for name, weight in weights.items()}
