"""The label-presence manifest: which classes each case annotates, and where the case comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, TypeAdapter, model_validator

from nnunetv2_clip import __version__
from nnunetv2_clip.classes import ClassNames, ClassRow, PerClass, Taxonomy, require_one_state
from nnunetv2_clip.errors import UserError, suggestion
from nnunetv2_clip.files import read_json, write_json
from nnunetv2_clip.tables import Finite, Names, Row, Text, checked

SCHEMA_VERSIONS = (1, 2)  # 2: some class of some case is incomplete
FILE_NAME = "label_presence.json"
_Weight = Annotated[Finite, Field(gt=0, le=1)]


@dataclass(frozen=True)
class CasePresence(Row):
    """What is known about one case.

    Attributes:
        dataset: name of the source dataset.
        annotated: classes that were drawn wherever they occur in this case (they may be empty).
        absent: classes that are known not to occur in this case (supervised as empty).
        incomplete: classes of which some voxels were drawn: these are true, about all others nothing was said.
        pseudo: class -> weight in the loss, above 0 and at most 1, of classes that a model has labelled here. They
            are no truth: they supervise training and nothing else.
        group: cases that show the same scan or the same patient share a group and never stand on both sides of a split.
        source_files: role (image, label, ...) -> path as it was converted.
        checksums: role -> SHA-256 of that file; "voxels" -> fingerprint of the image's voxels.
        geometry_fixes: repairs that the converter applied, in words.
        patient: the dataset's name for the patient; empty where it does not tell who is who.
    """

    dataset: str
    annotated: ClassNames
    absent: ClassNames = ()
    group: Text = ""
    source_files: dict[str, str] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    geometry_fixes: Names = ()
    pseudo: Annotated[PerClass[_Weight], Field(description="weights above 0, at most 1")] = field(default_factory=dict)
    patient: Text = ""
    incomplete: ClassNames = ()

    @model_validator(mode="after")
    def _one_state_per_class(self) -> CasePresence:
        require_one_state(self.annotated, self.absent, "annotated and absent")
        require_one_state(self.known, self.incomplete, "incomplete and annotated or absent")
        require_one_state(self.known.union(self.incomplete), self.pseudo, "pseudo labels and of another state")
        return self

    @property
    def known(self) -> frozenset[str]:
        """Classes whose truth is known in this case: annotated, or known to be absent."""
        return frozenset(self.annotated) | frozenset(self.absent)

    @property
    def drawn(self) -> frozenset[str]:
        """Classes whose voxels in the label map are true: annotated, or incomplete."""
        return frozenset(self.annotated) | frozenset(self.incomplete)

    @property
    def supervised(self) -> frozenset[str]:
        """Classes that give loss in this case: truth, all or some of it, and those that a model has labelled."""
        return self.known | self.drawn | frozenset(self.pseudo)


@dataclass(frozen=True, repr=False)
class Manifest:
    """All cases of a merge and the taxonomy that they speak of."""

    taxonomy: Taxonomy
    cases: dict[str, CasePresence]
    where: str = FILE_NAME

    def __repr__(self) -> str:  # thousands of cases do not belong into logs
        return f"Manifest({self.where}: {len(self.cases)} cases)"

    def presence(self, case_ids: Iterable[str], class_names: Iterable[str]) -> np.ndarray:
        """(B, K) bool: is the truth of class k known in case b. Incomplete classes and pseudo labels do not count.

        Raises:
            UserError: a case is not in the manifest.
        """
        names = list(class_names)
        known = [self.case(case_id).known for case_id in case_ids]
        return np.array([[name in each for name in names] for each in known], bool).reshape(len(known), len(names))

    def weights(self, case_ids: Iterable[str], class_names: Iterable[str]) -> np.ndarray:
        """(B, K) float32: weight of class k in the loss of case b: 1 for truth, 0 where nothing is known.

        Raises:
            UserError: a case is not in the manifest.
        """
        names = list(class_names)
        rows = []
        for case in map(self.case, case_ids):
            supervised = case.supervised
            rows.append([case.pseudo.get(name, name in supervised) for name in names])
        return np.array(rows, dtype=np.float32).reshape(len(rows), len(names))

    @property
    def has_pseudo_labels(self) -> bool:
        return any(case.pseudo for case in self.cases.values())

    def case(self, case_id: str) -> CasePresence:
        """The entry of one case. Raises UserError: the case is not in the manifest."""
        if case_id not in self.cases:
            found = f"case {case_id!r} is missing.{suggestion(case_id, self.cases)}"
            remedy = "run 'nnunetv2_clip convert' again, or add the case with its annotated classes"
            raise UserError(self.where, found, "an entry for every case of the dataset", remedy)
        return self.cases[case_id]

    def supervised_classes(self) -> tuple[str, ...]:
        """Every class that some case supervises, in painting order."""
        names = set().union(*(case.supervised for case in self.cases.values()))
        return tuple(row.name for row in self.taxonomy.subset(names))

    def count_cases(self) -> dict[str, dict]:
        """Source dataset -> {"cases": number of cases, "supervised": {class: number of cases that supervise it}}.

        Of these cases "pseudo" counts those in which a model has labelled the class, and "incomplete" those in which
        only some of it was drawn, where there are any.
        """
        counts: dict[str, dict] = {}
        for case in self.cases.values():
            entry = counts.setdefault(case.dataset, {"cases": 0, "supervised": {}})
            entry["cases"] += 1
            for row in self.taxonomy.subset(case.supervised):
                entry["supervised"][row.name] = entry["supervised"].get(row.name, 0) + 1
            for state in ("pseudo", "incomplete"):
                for row in self.taxonomy.subset(getattr(case, state)):
                    counted = entry.setdefault(state, {})
                    counted[row.name] = counted.get(row.name, 0) + 1
        return dict(sorted(counts.items()))

    def save(self, path: Path | str) -> None:
        """Write the file; a reader never sees half a manifest."""
        content = {
            "schema_version": 2 if any(case.incomplete for case in self.cases.values()) else 1,  # for older readers
            "created_by": f"nnunetv2_clip {__version__}",
            "classes": self.taxonomy.to_json(),
            "cases": {case_id: _entry(case) for case_id, case in sorted(self.cases.items())},
        }
        write_json(path, content)

    @classmethod
    def load(cls, path: Path | str) -> Manifest:
        """Read and check a manifest.

        Raises:
            UserError: not there, no JSON, another schema, what its schema does not know, an unknown class, a class in
                two states, or a weight that is none.
        """
        content = read_json(path, "run 'nnunetv2_clip convert', which writes it")
        content = content if isinstance(content, dict) else {}
        version = content.get("schema_version")
        if version not in SCHEMA_VERSIONS:
            expected = " or ".join(map(str, SCHEMA_VERSIONS))
            remedy = "convert again with this version, or install the version of nnunetv2_clip that wrote the file"
            raise UserError(path, f"schema_version is {version!r}", expected, remedy)
        taxonomy = Taxonomy.from_json(content.get("classes"), str(path))
        cases = checked(_Content, content, path, "convert again", context=taxonomy).cases
        newer = [case_id for case_id, case in cases.items() if case.incomplete]
        if version == 1 and newer:
            found = f"has incomplete classes, which schema_version {version} does not know"
            remedy = "write schema_version 2 if the classes are as you want them"
            raise UserError(f"{path}, case {newer[0]!r}", found, "schema_version 2", remedy)
        groups = {case_id: case if case.group else replace(case, group=case_id) for case_id, case in cases.items()}
        return cls(taxonomy, groups, str(path))


@dataclass(frozen=True)
class _Content:
    schema_version: Literal[1, 2]
    classes: tuple[ClassRow, ...]
    cases: dict[str, CasePresence]
    created_by: str = ""


def json_schema() -> dict:
    """The JSON schema of the file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **TypeAdapter(_Content).json_schema(),
        "title": FILE_NAME,
    }


def _entry(case: CasePresence) -> dict:
    """As JSON. What came later stands there only where there is some, so that older versions read all other files."""
    later = ("patient", "pseudo", "incomplete")
    return {key: value for key, value in asdict(case).items() if key not in later or value}
