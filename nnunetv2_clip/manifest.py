"""The label-presence manifest: which classes each case annotates, and where the case comes from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from nnunetv2_clip import __version__
from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.errors import UserError, suggestion

SCHEMA_VERSION = 1
FILE_NAME = "label_presence.json"


@dataclass(frozen=True)
class CasePresence:
    """What is known about one case.

    Attributes:
        dataset: name of the source dataset.
        annotated: classes that were drawn wherever they occur in this case (they may be empty).
        absent: classes that are known not to occur in this case (supervised as empty).
        group: cases that show the same scan share a group and never stand on both sides of a split.
        source_files: role (image, label, ...) -> path as it was converted.
        checksums: role -> SHA-256 of that file.
        geometry_fixes: repairs that the converter applied, in words.
    """

    dataset: str
    annotated: tuple[str, ...]
    absent: tuple[str, ...] = ()
    group: str = ""
    source_files: dict[str, str] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    geometry_fixes: tuple[str, ...] = ()

    @property
    def supervised(self) -> frozenset[str]:
        """Classes that give loss in this case: annotated, or known to be absent."""
        return frozenset(self.annotated) | frozenset(self.absent)


@dataclass(frozen=True, repr=False)
class Manifest:
    """All cases of a merge and the taxonomy that they speak of."""

    taxonomy: Taxonomy
    cases: dict[str, CasePresence]
    where: str = FILE_NAME

    def __repr__(self) -> str:  # thousands of cases do not belong into logs
        return f"Manifest({self.where}: {len(self.cases)} cases)"

    def presence(self, case_ids: Iterable[str], class_names: Iterable[str]) -> np.ndarray:
        """(B, K) bool: does class k give loss in case b.

        Raises:
            UserError: a case is not in the manifest.
        """
        names = list(class_names)
        rows = []
        for case_id in case_ids:
            supervised = self.case(case_id).supervised
            rows.append([name in supervised for name in names])
        return np.array(rows, dtype=bool).reshape(len(rows), len(names))

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
        """Source dataset -> {"cases": number of cases, "supervised": {class: number of cases that supervise it}}."""
        counts: dict[str, dict] = {}
        for case in self.cases.values():
            entry = counts.setdefault(case.dataset, {"cases": 0, "supervised": {}})
            entry["cases"] += 1
            for row in self.taxonomy.subset(case.supervised):
                entry["supervised"][row.name] = entry["supervised"].get(row.name, 0) + 1
        return dict(sorted(counts.items()))

    def save(self, path: Path | str) -> None:
        """Write beside, then rename: a reader never sees half a manifest."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "created_by": f"nnunetv2_clip {__version__}",
            "classes": self.taxonomy.to_json(),
            "cases": {case_id: asdict(case) for case_id, case in sorted(self.cases.items())},
        }
        write_json(path, content)

    @classmethod
    def load(cls, path: Path | str) -> Manifest:
        """Read and check a manifest.

        Raises:
            UserError: not there, no JSON, another schema, an unknown class, or a class both annotated and absent.
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
    for key in ("source_files", "checksums"):
        tables[key] = entry.get(key, {})
        if not isinstance(tables[key], dict):
            raise UserError(where, f"{key!r} is {tables[key]!r}", "a table role -> text")
    return CasePresence(
        dataset=entry["dataset"],
        annotated=tuple(lists["annotated"]),
        absent=tuple(lists["absent"]),
        group=str(entry.get("group") or case_id),
        source_files=tables["source_files"],
        checksums=tables["checksums"],
        geometry_fixes=tuple(lists["geometry_fixes"]),
    )


def read_json(path: Path | str, remedy: str) -> object:
    """The content of a JSON file.

    Raises:
        UserError: not there or no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})", "a JSON file", remedy) from None
    except ValueError as error:
        raise UserError(path, f"is no JSON ({error})", "a JSON file", remedy) from None


def write_json(path: Path | str, content: object) -> None:
    """Write beside, then rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(content, indent=2, sort_keys=False) + "\n", encoding="utf-8")
    os.replace(beside, path)
