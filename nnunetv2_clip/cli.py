"""The command line: parse the arguments of one sub-command and call it."""

from __future__ import annotations

import argparse
import errno
import importlib
import signal
import sys
import threading
from contextlib import contextmanager

from nnunetv2_clip import __version__
from nnunetv2_clip.errors import UserError

# Name -> help. Each lives in nnunetv2_clip/commands/<name with _>.py as add_arguments(parser) and run(args);
# these modules import argparse only at their top, so that --help stays fast.
COMMANDS = {
    "datasets": "list the source datasets: classes, cases, licence, where to get them, what to unpack",
    "check": "look through downloads before converting them: completeness, labels, geometry, copies, disk space",
    "convert": "merge source datasets into one nnU-Net raw dataset with a label-presence manifest",
    "embed": "make the table of text embeddings of a dataset's classes",
    "plan": "make nnU-Net plans that the stock planners cannot make (small networks, torch resampling)",
    "prepare-weights": "make a stock nnU-Net checkpoint loadable with -pretrained_weights",
    "extend": "add classes to a trained model without its data, or start another training from it",
    "predict": "label maps, masks, statistics and pictures of CTs, from NIfTI or DICOM",
    "pseudo-label": "complete a partly labelled dataset with the predictions of a model",
    "learn-postprocessing": "learn anatomical rules on the validation cases and keep those that raise Dice",
    "evaluate": "Dice, NSD, HD95 and volumes per class over the cases that annotate the class",
    "detect": "tumour detection: sensitivity, specificity, lesion recall and false lesions",
    "crossval": "collect the validation of all folds: per class, per fold, and in the paper's layout",
    "paper-tables": "evaluations in the layout of the paper's tables, beside its own rows",
    "compare": "two models on the same cases: paired differences, tests, a picture",
    "agreement": "pairwise Dice between label sources (readers, models)",
    "efficiency": "parameters, FLOPs, time and memory of the universal network and of others",
    "feature-map": "t-SNE of decoder features, sampled per predicted class",
    "export-msd": "make a Medical Segmentation Decathlon submission",
    "report": "one self-contained HTML page with overlays and a Dice table",
    "info": "what a trained model knows and how it was made",
    "phantom": "write synthetic CT datasets in the layout of real ones",
    "totalsegmentator-group": "write the tables that convert a group of TotalSegmentator's structures (vertebrae, ...)",
    "classes": "list the universal classes",
    "trainers-path": "print the folder to append to nnUNet_extTrainer",
}

# A path that the user named cannot be made or the disk is full: no defect of the program.
UNUSABLE_PLACE = {
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "ENOTDIR", "EISDIR", "EEXIST", "ENAMETOOLONG")
    if hasattr(errno, name)
}


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The whole parser; with `only`, the arguments of that sub-command alone are filled in."""
    parser = argparse.ArgumentParser(prog="nnunetv2_clip", description=__doc__)
    parser.add_argument("--version", action="version", version=f"nnunetv2_clip {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if only == name:
            command_module(name).add_arguments(command)
    return parser


def command_module(name: str):
    return importlib.import_module(f"nnunetv2_clip.commands.{name.replace('-', '_')}")


def main(arguments: list[str] | None = None) -> int:
    """Run one sub-command; its exit code. A message without traceback for what the user can mend."""
    arguments = sys.argv[1:] if arguments is None else arguments
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    args = build_parser(named).parse_args(arguments)
    try:
        with terminated_in_order():
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


class Terminated(SystemExit):
    """SIGTERM as an exception: whoever is at work cleans up, and workers end."""


@contextmanager
def terminated_in_order():
    """Raise `Terminated` on SIGTERM; only the main thread may say what a signal does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number, frame):
        raise Terminated(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
