"""Every command of docs/predict.md is one that the command line takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from nnunetv2_clip.cli import build_parser
from nnunetv2_clip.commands import predict
from nnunetv2_clip.inference import outputs

PAGE = (Path(__file__).parents[2] / "docs" / "predict.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    nnunetv2_clip (.*)$", PAGE, re.M)


def test_there_are_commands():
    assert len(COMMANDS) >= 7


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command):
    words = shlex.split(command)
    assert build_parser(words[0]).parse_args(words).m == (None if "-d" in words else Path("MODEL"))


def test_the_kinds_of_the_command_line_are_those_of_the_code():
    assert predict.KINDS == outputs.KINDS
