"""Every command of docs/msd.md is one that the command line takes, and its rules are rules."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from nnunetv2_clip.cli import build_parser
from nnunetv2_clip.msd.post_processing import read_rules
from nnunetv2_clip.msd.tasks import CT_TASKS

PAGE = (Path(__file__).parents[2] / "docs" / "msd.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^ +nnunetv2_clip (export-msd .*)$", PAGE, re.M)


def test_there_are_commands():
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command):
    assert build_parser("export-msd").parse_args(shlex.split(command)).msd == Path("MSD")


def test_the_rules_are_read(tmp_path):
    (tmp_path / "rules.yaml").write_text(re.search(r"```yaml\n(.*?)```", PAGE, re.S)[1])
    assert set(read_rules(tmp_path / "rules.yaml")) == {"Task03_Liver", "Task10_Colon"}


def test_the_table_of_classes_is_that_of_the_code():
    for task in CT_TASKS:
        classes = ", ".join(f"{name} {value}" for name, value in task.classes.items())
        assert f"| {task.folder} | {classes} |" in PAGE
