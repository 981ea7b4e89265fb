"""The rules and the table of classes in docs/msd.md are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from nnunetv2_clip.msd.post_processing import read_rules
from nnunetv2_clip.msd.tasks import CT_TASKS

PAGE = (Path(__file__).parents[2] / "docs" / "msd.md").read_text(encoding="utf-8")


def test_the_rules_are_read(tmp_path):
    (tmp_path / "rules.yaml").write_text(re.search(r"```yaml\n(.*?)```", PAGE, re.S)[1])
    assert set(read_rules(tmp_path / "rules.yaml")) == {"Task03_Liver", "Task10_Colon"}


def test_the_table_of_classes_is_that_of_the_code():
    for task in CT_TASKS:
        classes = ", ".join(f"{name} {value}" for name, value in task.classes.items())
        assert f"| {task.folder} | {classes} |" in PAGE
