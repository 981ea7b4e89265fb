"""Every command of docs/report.md is one that the command line takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from nnunetv2_clip.cli import build_parser

PAGE = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^ +nnunetv2_clip (.*)$", PAGE, re.M)


def test_there_are_commands():
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command):
    words = shlex.split(command)
    assert build_parser(words[0]).parse_args(words).command == words[0]
