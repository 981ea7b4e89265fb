"""What may be wrong with a scan, and what each command does about it: one table, from which docs/intake.md is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NoReturn

from nnunetv2_clip.errors import UserError

Action = Literal["refused", "repaired", "warning", "accepted"]
Stage = Literal["convert", "predict", "read"]
STAGES: dict[Stage, str] = {
    "convert": "check, convert",
    "predict": "predict, load_model, pseudo-label",
    "read": "evaluate, detect, report, msd",
}


Actions = tuple[Action, Action, Action]  # of each stage
REFUSED: Actions = ("refused", "refused", "refused")
WARNED: Actions = ("warning", "warning", "warning")


@dataclass(frozen=True)
class Kind:
    """One row of the table.

    Attributes:
        checked: what has to hold, in words.
        remedy: what to do about it.
        actions: what the commands of each stage do when it does not hold.
    """

    name: str
    checked: str
    remedy: str
    actions: Actions = REFUSED


AGAIN = "download or unpack the file again"
ONE_HEADER = "find out which is right, and save the file with one consistent header"
_ROWS = (
    Kind("file", "the file is complete and its compression is intact", AGAIN),
    Kind("header", "the header is that of a NIfTI file whose voxels begin behind it", AGAIN),
    Kind("dimensions", "one three-dimensional volume", "split series of volumes, and take the one that was labelled"),
    Kind("slices", "an image has two slices or more", "give all slices of the scan"),
    Kind("number type", "voxels are plain numbers", "export grey values"),
    Kind("position", "the affine can be inverted and its axes do not lie in one plane", AGAIN),
    Kind("voxel size", "voxels of 0.05 to 50 mm, and a volume below 3 m", "correct the voxel size in the header"),
    Kind("wide integers", "integers of at most 32 bits", "nothing", ("repaired", "accepted", "accepted")),
    Kind(
        "unset voxel size",
        "the header's voxel sizes (pixdim, sform) agree to 0.1 %, or differ by rounding, or pixdim was never set",
        "save the file again with one consistent header",
        ("repaired", "warning", "warning"),
    ),
    Kind(
        "two voxel sizes",
        "the header's voxel sizes (pixdim, sform) agree to 1 %",
        ONE_HEADER,
        ("refused", "warning", "warning"),
    ),
    Kind("two positions", "the header's positions (sform, qform) agree", ONE_HEADER, WARNED),
    Kind(
        "no position",
        "the header says how the patient lies (sform or qform code above 0)",
        "convert the DICOM series again; right and left cannot be told",
        ("warning", "warning", "accepted"),
    ),
    Kind("finite", "no voxel is NaN or infinite", "correct or exclude the case"),
    Kind("constant", "voxels differ from each other", AGAIN, ("refused", "refused", "warning")),
    Kind("number range", "integers fit into 32 bits", "export it again"),
    Kind(
        "Hounsfield units",
        "air, soft tissue and bone have the values of a CT in Hounsfield units",
        "export it again with rescale slope and intercept, or leave the case out",
        WARNED,
    ),
    Kind(
        "clipped",
        "Hounsfield units are not cut off above the value of air",
        "give the CT as it was stored: a model that has not seen clipped CTs may find less",
        ("accepted", "warning", "accepted"),
    ),
    Kind("body size", "a body with air around it is 60 mm wide or more", "correct the voxel size", WARNED),
    Kind(
        "orientation",
        "the body lies as the header says: liver right, spine behind, lungs above",
        "correct the direction in the header, or leave the case out",
        WARNED,
    ),
    Kind(
        "sides of organs",
        "drawn and predicted organs lie on their sides: right ones right of their partners, the liver of the spleen",
        "look whether the image is mirrored, or the label values are exchanged",
        ("warning", "warning", "accepted"),
    ),
    Kind(
        "something found",
        "a prediction holds something of the organs that were looked for",
        "look whether this is a CT of these organs",
        ("accepted", "warning", "accepted"),
    ),
)
KINDS = {kind.name: kind for kind in _ROWS}


@dataclass(frozen=True)
class ScanFinding:
    """Something that does not hold for one scan.

    Attributes:
        kind: the name of its row.
        found: what was found, in words.
    """

    kind: str
    found: str

    def action(self, stage: Stage) -> Action:
        return KINDS[self.kind].actions[tuple(STAGES).index(stage)]

    def __str__(self) -> str:
        return f"{self.found} ({KINDS[self.kind].remedy})"


def refuse_scan(kind: str, where: object, found: str, remedy: str = "") -> NoReturn:
    """Raises the UserError of a row; `remedy` where there is a nearer one than that of the table."""
    row = KINDS[kind]
    raise UserError(where, found, row.checked, remedy or row.remedy)


def settle(findings: tuple[ScanFinding, ...], where: object, stage: Stage) -> tuple[ScanFinding, ...]:
    """Those that this stage repairs or warns of.

    Raises:
        UserError: the first one that it refuses.
    """
    for finding in findings:
        if finding.action(stage) == "refused":
            refuse_scan(finding.kind, where, finding.found)
    return tuple(finding for finding in findings if finding.action(stage) != "accepted")


def table() -> str:
    """The table for docs/intake.md."""
    head = ["what has to hold", *STAGES.values(), "what to do"]
    rows = [[kind.checked, *kind.actions, kind.remedy] for kind in _ROWS]
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
