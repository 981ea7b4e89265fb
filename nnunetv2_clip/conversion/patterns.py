"""Find the files of a dataset by a pattern in which {case} names the case."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from nnunetv2_clip.conversion.source import each_once, is_junk
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.imaging.nifti import SUFFIXES

PLACEHOLDER = "{case}"
PATTERN = f"a pattern below 'root' such as images/{PLACEHOLDER}.nii.gz"


def _below_root(pattern: str) -> str:
    assert pattern.endswith(SUFFIXES) and not pattern.startswith("/") and "**" not in pattern
    return pattern


Pattern = Annotated[str, AfterValidator(_below_root), Field(description=PATTERN)]


def find_by_pattern(root: Path, pattern: str) -> dict[str, Path]:
    """Case -> file. The text at {case} names the case; without {case} there is one file, whose case is "".

    Raises:
        UserError: no folder, no file, or two files of one case.
    """
    if not root.is_dir():
        raise UserError(root, "is no folder", "the folder of the files", "correct 'root' in the table")
    parts = re.split(r"(\{case\}|\*)", pattern)
    expression, seen = "", False
    for part in parts:
        if part == PLACEHOLDER:
            expression += "(?P=case)" if seen else "(?P<case>[^/]+)"
            seen = True
        else:
            expression += "[^/]*" if part == "*" else re.escape(part)
    matches = {path: re.fullmatch(expression, path.relative_to(root).as_posix()) for path in _files(root, pattern)}
    named = ((match["case"] if seen else "", path) for path, match in matches.items() if match)
    found = each_once(named, f"make the pattern {pattern!r} narrower")
    if not found:
        remedy = "correct the pattern or 'root' in the table"
        raise UserError(root, f"no file fits {pattern!r}", "at least one .nii or .nii.gz file", remedy)
    return found


def _files(root: Path, pattern: str) -> list[Path]:
    paths = sorted(root.glob(pattern.replace(PLACEHOLDER, "*")))
    return [path for path in paths if path.is_file() and not is_junk(path)]
