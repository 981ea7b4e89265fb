"""Each name means one thing: no two modules define a public class or function of the same name."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Name -> why several modules may define it.
SHARED = {
    "run": "every command's entry",
    "add_arguments": "every command's options",
    "write": "every phantom layout's entry, and files that their module is named for",
    "main": "the start of a program",
    "describe": "three commands print their subject",
}


def definitions(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name


def test_no_name_is_defined_in_two_modules():
    places = defaultdict(list)
    for folder in ("nnunetv2_clip", "dataset_conversion"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for name in set(definitions(path)) - set(SHARED):
                places[name].append(path.relative_to(ROOT).as_posix())
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
