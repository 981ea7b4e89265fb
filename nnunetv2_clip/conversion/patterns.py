"""Find the files of a dataset by a pattern in which {case} names the case."""

from __future__ import annotations

import re
from pathlib import Path

from nnunetv2_clip.conversion.source import is_junk
from nnunetv2_clip.errors import UserError

PLACEHOLDER = "{case}"


def find_by_pattern(root: Path, pattern: str) -> dict[str, Path]:
    """Case -> file. The text at {case} names the case; without {case} there is one file, whose case is "".

    Raises:
        UserError: two files of one case.
    """
    parts = re.split(r"(\{case\}|\*)", pattern)
    expression, seen = "", False
    for part in parts:
        if part == PLACEHOLDER:
            expression += "(?P=case)" if seen else "(?P<case>[^/]+)"
            seen = True
        else:
            expression += "[^/]*" if part == "*" else re.escape(part)
    found: dict[str, Path] = {}
    for path in sorted(root.glob(pattern.replace(PLACEHOLDER, "*"))):
        match = re.fullmatch(expression, path.relative_to(root).as_posix())
        if not match or not path.is_file() or is_junk(path):
            continue
        case = match["case"] if seen else ""
        if case in found:
            raise UserError(
                root,
                f"{found[case].relative_to(root)} and {path.relative_to(root)} are both case {case!r} of {pattern!r}",
                "one file per case",
                "make the pattern narrower",
            )
        found[case] = path
    return found
