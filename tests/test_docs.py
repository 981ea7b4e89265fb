"""Every command of ours in README and docs is one that the command line accepts, and every link leads somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from nnunetv2_clip.cli import COMMANDS, build_parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


def commands_of(page):
    """The lines `nnunetv2_clip ...` of the page's shell blocks, continued lines joined, comments cut."""
    for block in re.findall(r"```(?:bash|sh|shell)\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(re.sub(r"\$\w+", "1", line), comments=True)
            if words[:1] == ["nnunetv2_clip"]:
                yield words[1:]


CASES = [
    pytest.param(words, id=f"{page.name}: {' '.join(words)[:60]}") for page in PAGES for words in commands_of(page)
]


@pytest.mark.parametrize("words", CASES)
def test_the_command_is_accepted(words):
    if "--help" in words or "|" in words:
        return
    parsed = build_parser(words[0]).parse_args(words)
    assert parsed.command in COMMANDS


def test_the_pages_show_commands():
    assert len(CASES) > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_explained_somewhere(command):
    text = "\n".join(page.read_text() for page in PAGES)
    assert f"nnunetv2_clip {command}" in text or f"`{command}`" in text
