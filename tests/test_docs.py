"""Every command in README, docs, demo and messages is one that the command line accepts; every link leads somewhere."""

import argparse
import re
import shlex
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from nnunetv2_clip.cli import COMMANDS, EXIT_CODES, GROUPS, command_parser, parse
from nnunetv2_clip.commands._arguments import next_steps

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
COMMANDS_PAGE = (ROOT / "docs" / "commands.md").read_text()
# Options in the text of the pages that other programs have.
FOREIGN = {"--c", "--clip-weights", "--ipc", "--npz", "--shm-size", "--val", "--work"}


def shell_lines(text):
    """The lines of the shell blocks and of the indented blocks, continued lines joined."""
    text = text.replace("\\\n", " ")
    blocks = re.findall(r"```(?:bash|sh|shell)\n(.*?)```", text, re.DOTALL)
    return [line.strip() for line in "\n".join(blocks).splitlines() + re.findall(r"^    .*$", text, re.MULTILINE)]


def commands_of(text, program=r"nnunetv2_clip"):
    """The words of the lines that call the program; comments cut, nothing for a placeholder of variables."""
    for line in dict.fromkeys(shell_lines(text)):
        words = shlex.split(re.sub(r"\$\{?\w+\}?", "1", line), comments=True) if re.match(program, line) else []
        if words and re.fullmatch(program, words[0]):
            yield words


def cases(pages, program=r"nnunetv2_clip"):
    return [
        pytest.param(words, id=f"{page.name}: {' '.join(words)[:70]}")
        for page in pages
        for words in commands_of(page.read_text(), program)
    ]


OURS, HOSTS = cases(PAGES), cases(PAGES, r"nnUNetv2_\w+")


def test_the_pages_show_commands():
    assert len(OURS) > 60 and len(HOSTS) > 20


@pytest.mark.parametrize("words", OURS)
def test_the_command_is_accepted(words):
    assert parse(words[1:]).command in COMMANDS


class Parsed(Exception):
    pass


@pytest.mark.parametrize("words", HOSTS)
def test_the_hosts_command_is_accepted(words, monkeypatch):
    """nnU-Net's own parser takes it; nothing runs."""
    original = argparse.ArgumentParser.parse_known_args

    def parse_and_stop(self, *args, **kwargs):
        assert original(self, *args, **kwargs)[1] == []
        raise Parsed

    [entry] = [entry for entry in entry_points(group="console_scripts") if entry.name == words[0]]
    monkeypatch.setattr("sys.argv", words)
    function = entry.load()
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_and_stop)
    with pytest.raises(Parsed):
        function()


def test_the_demo_types_commands_that_are_accepted():
    text = (ROOT / "demo" / "run.sh").read_text().replace("\\\n", " ")
    lines = [line.removeprefix("run ").strip() for line in text.splitlines()]
    ours = [shlex.split(re.sub(r"\$\{?\w+\}?", "1", line)) for line in lines if line.startswith("nnunetv2_clip ")]
    assert len(ours) > 8
    for words in ours:
        parse(words[1:])


def test_what_follows_a_conversion_is_accepted():
    [ours, *hosts] = [line.split() for line in next_steps("900").splitlines()[1:]]
    assert parse(ours[1:]).command == "embed"
    readme = (ROOT / "README.md").read_text()
    assert all(" ".join(words) in readme for words in hosts)


def mentioned(text):
    """(command, its options) of every mention in quotes or backticks."""
    names = "|".join(sorted(COMMANDS, key=len, reverse=True))
    for name, rest in re.findall(rf"['`(]nnunetv2_clip ({names})\b([^'`\n)]*)", text):
        yield name, re.findall(r"(?<=\s)--?[A-Za-z][\w-]*", rest)


FOLDERS = ("nnunetv2_clip", "dataset_conversion", "plans", "trainers")
SOURCES = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("path", [*PAGES, *SOURCES], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_command_that_a_text_mentions_exists_with_its_options(path):
    text = path.read_text()
    for name in re.findall(r"['`]nnunetv2_clip ([a-z][a-z-]*)", text):
        assert any(command.split()[0] == name for command in COMMANDS), name
    for name, options in mentioned(text):
        assert set(options) <= set(command_parser(name)._option_string_actions), (name, options)


@pytest.fixture(scope="module")
def all_options():
    return {option for name in COMMANDS for option in command_parser(name)._option_string_actions}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_an_option_that_a_text_mentions_exists(page, all_options):
    for span in re.findall(r"`(--[^`]*)`", page.read_text()):
        assert set(re.findall(r"(?:^|(?<=\s))--[a-z][\w-]*", span)) <= all_options | FOREIGN, span


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_page_of_all_commands_is_the_help():
    rows = re.findall(r"^\| `([a-z][a-z -]*)` \| (.*?) \| .*\|$", COMMANDS_PAGE, re.MULTILINE)
    assert rows == list(COMMANDS.items())
    assert re.findall(r"^## (.*)$", COMMANDS_PAGE, re.MULTILINE)[: len(GROUPS)] == list(GROUPS)
    assert re.findall(r"^\| (\d) \| (.*) \|$", COMMANDS_PAGE, re.MULTILINE) == [
        (str(code), text) for code, text in EXIT_CODES.items()
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_explained_on_a_page_of_its_own_matter(command):
    text = "\n".join(page.read_text() for page in PAGES if page.name != "commands.md")
    assert f"nnunetv2_clip {command}" in text or f"`{command}`" in text
