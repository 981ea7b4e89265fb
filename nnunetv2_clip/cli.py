"""The command line: find the command, parse its arguments, call it, and say in an exit code how it went."""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import json
import os
import re
import shutil
import signal
import sys
import textwrap
import threading
import warnings
from contextlib import contextmanager, redirect_stdout

from nnunetv2_clip import __version__
from nnunetv2_clip.commands._arguments import require_ranges
from nnunetv2_clip.errors import UserError, suggestion

INTRODUCTION = """\
One CT segmentation network for many partly labelled datasets: merge them, describe their classes by text, then train,
predict and share the model with nnU-Net v2. The steps in between are nnU-Net's own commands (nnUNetv2_preprocess,
nnUNetv2_train, nnUNetv2_predict, nnUNetv2_export_model_to_zip, ...); docs/commands.md shows them in order."""

# In the order of work: group -> command -> help. A command lives in commands/<name with _>.py as add_arguments(parser)
# and run(args); these modules import argparse and pathlib only at their top, so that --help stays fast.
GROUPS = {
    "Data": {
        "datasets": "list the source datasets: classes, cases, licence, where to get them, what to unpack",
        "check": "look through downloads before converting them: completeness, labels, geometry, copies, disk space",
        "convert": "merge source datasets into one nnU-Net raw dataset with a label-presence manifest",
        "classes": "list the universal classes",
        "totalsegmentator-group": "write the tables that convert a group of TotalSegmentator's structures",
        "phantom": "write synthetic CT datasets in the layout of real ones",
    },
    "Text": {
        "embed": "make the table of text embeddings of a dataset's classes",
    },
    "Train": {
        "plan": "make nnU-Net plans that the stock planners cannot make (small networks, torch resampling)",
        "prepare-weights": "make a checkpoint of stock nnU-Net or MONAI's Swin UNETR loadable with -pretrained_weights",
        "extend": "add classes to a trained model without its data, or start another training from it",
        "pseudo-label": "complete a partly labelled dataset with the predictions of a model",
        "trainers-path": "print the folder to append to nnUNet_extTrainer",
    },
    "Predict": {
        "import-weights": "make a model folder of the paper's published weights, which you have downloaded",
        "predict": "label maps, masks, statistics, pictures and DICOM segmentations of CTs of any format",
        "learn-postprocessing": "learn anatomical rules on the validation cases and keep those that raise Dice",
    },
    "Evaluate": {
        "evaluate": "Dice, NSD, HD95 and volumes per class over the cases that annotate the class",
        "detect": "tumour detection: sensitivity, specificity, lesion recall and false lesions",
        "crossval": "collect the validation of all folds: per class, per fold, and in the paper's layout",
        "compare": "two models on the same cases: paired differences, tests, a picture",
        "report": "one self-contained HTML page with overlays and a Dice table",
        "paper tables": "evaluations in the layout of the paper's tables, with its own rows",
        "paper agreement": "pairwise Dice between label sources (readers, models)",
        "paper efficiency": "parameters, FLOPs, time and memory of the universal network and of others",
        "paper features": "decoder features, sampled per predicted class, as t-SNE",
        "paper embeddings": "similarity of text embeddings: matrices of tables, ranks of related classes",
    },
    "Share": {
        "info": "what a trained model knows, how it was made, and the licences of its data",
        "share": "a model for others: model card and zip, or upload to the Hugging Face hub",
        "msd export": "make a Medical Segmentation Decathlon submission",
        "msd verify": "check a submission: files, geometry, label values",
        "msd rehearse": "score predictions of training images as the Decathlon does",
    },
}
COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}
EXIT_CODES = {
    0: "all good",
    1: "check found problems",
    2: "nothing done: wrong input or usage",
    3: "some cases failed, the others are done",
}

# A path that the user named cannot be made or the disk is full: no defect of the program.
UNUSABLE_PLACE = {
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "ENOTDIR", "EISDIR", "EEXIST", "ENAMETOOLONG")
    if hasattr(errno, name)
}


class Help(argparse.RawDescriptionHelpFormatter):
    """Writes every default in one way; only texts of several lines keep their lines."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return super()._fill_text(text, width, indent) if "\n" in text else textwrap.fill(text, width)

    def _get_help_string(self, action: argparse.Action) -> str:
        text, value = action.help or "", action.default
        if action.choices and action.metavar:
            text += f"; out of {', '.join(action.choices)}"
        if "(default" in text or value in (None, [], "", argparse.SUPPRESS) or value is False:
            return text
        shown = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        return f"{text} (default: {shown.replace('%', '%%')})"


class Parser(argparse.ArgumentParser):
    """One command's arguments. An option that it does not have is refused, never taken for -X with a value."""

    def parse_known_args(self, args=None, namespace=None):
        for word in args or ():
            option = word.partition("=")[0]
            if word == "--":
                break
            if re.match("--|-[a-zA-Z]", option) and option not in self._option_string_actions:
                self.error(f"unknown option {option}.{suggestion(option, self._option_string_actions)}")
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            near, known = suggestion(str(value), action.choices), ", ".join(action.choices)
            self.error(f"{'/'.join(action.option_strings)}: {value!r} is not one of {known}.{near}")

    def error(self, message: str):
        end = "" if message.endswith((".", "?")) else "."
        print(f"Error: {message}{end} All options: {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def command_parser(name: str) -> Parser:
    """The arguments of one command."""
    text = COMMANDS[name]
    described = f"{text[0].upper()}{text[1:]}."
    parser = Parser(prog=f"nnunetv2_clip {name}", description=described, formatter_class=Help, allow_abbrev=False)
    command_module(name).add_arguments(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bars, no text but errors and warnings")
    return parser


def command_module(name: str):
    return importlib.import_module(f"nnunetv2_clip.commands.{name.replace(' ', '_').replace('-', '_')}")


def overview(prefix: str = "") -> str:
    """The help of the program, or of the commands whose names begin with `prefix`."""
    width = max(map(len, COMMANDS)) + 2
    columns = shutil.get_terminal_size().columns - 2
    introduction = [] if prefix else [textwrap.fill(INTRODUCTION, columns), ""]
    lines = [f"usage: nnunetv2_clip {prefix}COMMAND [options]", "", *introduction]
    for title, group in GROUPS.items():
        rows = [(f"  {name:{width}}", text) for name, text in group.items() if name.startswith(prefix)]
        if rows:
            indent = " " * (width + 2)
            lines += [
                title,
                *(textwrap.fill(text, columns, initial_indent=name, subsequent_indent=indent) for name, text in rows),
                "",
            ]
    lines += ["Exit codes", *(f"  {code}  {text}" for code, text in EXIT_CODES.items()), ""]
    lines += ["Options of a command: nnunetv2_clip COMMAND --help", "Version: nnunetv2_clip --version"]
    return "\n".join(lines)


def parse(words: list[str]) -> argparse.Namespace:
    """The command and its arguments; a wrong word ends the program with exit code 2 and the nearest right one."""
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in COMMANDS:
            return command_parser(name).parse_args(words[length:], argparse.Namespace(command=name))
    _exit_without_command(words)


def _exit_without_command(words: list[str]) -> None:
    first = words[0] if words else ""
    prefix = f"{first} " if any(name.startswith(f"{first} ") for name in COMMANDS) else ""
    rest = words[1:] if prefix else words
    if rest[:1] == ["--version"]:
        print(f"nnunetv2_clip {__version__}")
        sys.exit(0)
    if not rest or rest[0] in ("-h", "--help"):
        print(overview(prefix))
        sys.exit(0 if rest else 2)
    wrong = prefix + rest[0]
    near = suggestion(wrong, [name for name in COMMANDS if name.startswith(prefix)] or COMMANDS)
    print(f"Error: unknown command {wrong!r}.{near} All commands: nnunetv2_clip --help", file=sys.stderr)
    sys.exit(2)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; `EXIT_CODES` says what is returned. No traceback for what the user can fix."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be text that the terminal can show
            stream.reconfigure(errors="backslashreplace")
    if not sys.warnoptions:  # deprecations inside other packages are not the user's business
        warnings.simplefilter("ignore", FutureWarning)
    args = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        _require_current_folder()
        require_ranges(args)
        with terminated_in_order(), _said(args):
            return command_module(args.command).run(args) or 0
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of a pipe (head) has seen enough
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno not in UNUSABLE_PLACE:
            raise
        place = error.filename or args.command
        message = UserError(place, error.strerror, "a place that can be written", "check path, rights and free space")
        print(f"Error: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; run the same command again to go on.", file=sys.stderr)
        return 130
    except Terminated as end:
        print("Ended by SIGTERM; run the same command again to go on.", file=sys.stderr)
        return end.code


def _require_current_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("current folder", "does not exist any more", "a folder", "cd into one that is there") from None


class Terminated(SystemExit):
    """SIGTERM as an exception: whoever is at work cleans up, and workers end."""


@contextmanager
def terminated_in_order():
    """Raise `Terminated` on SIGTERM; only the main thread may say what a signal does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: object) -> None:
    raise Terminated(128 + number)


# nnU-Net's pools fork, and end their workers by SIGTERM. A worker must leave the signal to the system: Python forgets a
# signal that comes in the middle of a fork, and one that comes just before a wait for a lock does not end the wait; the
# pool would wait for its worker for ever. So the signal is held back until the worker has no handler any more.


def _hold_back() -> None:
    if signal.getsignal(signal.SIGTERM) is _terminate:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _let_through() -> None:
    if signal.getsignal(signal.SIGTERM) is _terminate:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _let_through_to_the_system() -> None:
    if signal.getsignal(signal.SIGTERM) is _terminate:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_back, after_in_parent=_let_through, after_in_child=_let_through_to_the_system)


@contextmanager
def _said(args: argparse.Namespace):
    """What the command prints, or with --quiet nothing; with --json its `args.result` and nothing else."""
    as_json = getattr(args, "json", False)
    with _bars_where_they_can_be_seen(args.quiet):
        if not args.quiet and not as_json:
            yield
            return
        try:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                yield
        finally:
            if as_json and hasattr(args, "result"):
                print(json.dumps(args.result, indent=2))


@contextmanager
def _bars_where_they_can_be_seen(quiet: bool):
    """Progress bars, nnU-Net's too, on a terminal only; the runner writes lines into a log instead."""
    before = os.environ.get("TQDM_DISABLE")
    if quiet or not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"  # read by tqdm when it is imported, here and in worker processes
    try:
        yield
    finally:
        os.environ.pop("TQDM_DISABLE", None)
        if before is not None:
            os.environ["TQDM_DISABLE"] = before


if __name__ == "__main__":
    sys.exit(main())
