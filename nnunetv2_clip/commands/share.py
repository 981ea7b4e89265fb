"""`nnunetv2_clip share`: a trained model for others, as a zip with its model card, or on the Hugging Face hub."""

import argparse
import sys
from pathlib import Path

from nnunetv2_clip.commands._arguments import FILE, add
from nnunetv2_clip.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "-m", required=True)
    add(parser, "-c", help="configuration (default: of a zip, the only one that is in it)")
    add(parser, "-f", "-chk")
    add(parser, "-o", help="new folder for the model card (README.md) and the zip")
    parser.add_argument(
        "--push", metavar="ORG/NAME", help="instead of -o: say what would be uploaded to this repository"
    )
    parser.add_argument("--yes", action="store_true", help="with --push: upload it")
    parser.add_argument("--private", action="store_true", help="with --push: a new repository is private")
    parser.add_argument("--licence", metavar="NAME", default="", help="of the weights, as the hub names it (cc-by-4.0)")
    parser.add_argument("--about", **FILE, help="Markdown for the top of the card: author, contact, what is special")
    parser.add_argument(
        "--evaluation",
        **FILE,
        help="evaluation.json of 'evaluate' or 'crossval' for the card (default: that of 'crossval', if there)",
    )


def run(args: argparse.Namespace) -> None:
    from tempfile import TemporaryDirectory

    from nnunetv2_clip.sharing.card import AuthorsWords, data_that_forbids_derivatives, model_card
    from nnunetv2_clip.sharing.package import write_model_files
    from nnunetv2_clip.trained_model import TrainedModel

    _check_arguments(args)
    model = TrainedModel.open(args.m, args.c)
    if model.licence:
        _check_licence(args, model)
    folds = model.folds(args.chk, args.f)
    words = AuthorsWords(args.licence, _about(args.about), _evaluation(args.evaluation, model.where))
    with TemporaryDirectory(prefix="nnunetv2_clip_share_") as work:
        folder = write_model_files(model, folds, args.chk, Path(work))
        name = folder.relative_to(work).as_posix()
        place = f"hf:{args.push}" if args.push else f"{name.replace('/', '__')}.zip"
        card = model_card(TrainedModel.open(folder), place, words)
        for source in data_that_forbids_derivatives(model.licences):
            said = f"the licence of {source} forbids derivatives ({model.licences[source]})"
            print(f"Warning: {said}: find out whether that covers a trained model.", file=sys.stderr)
        _push(args, folder, name, card) if args.push else _save(args.o, Path(work), folder, place, card)


def _check_arguments(args: argparse.Namespace) -> None:
    if (args.o is None) == (args.push is None):
        raise UserError("share", "needs either -o or --push", "-o FOLDER, or --push ORG/NAME")
    if args.o and (args.o.is_file() or args.o.is_dir() and any(args.o.iterdir())):
        raise UserError("-o", f"{args.o} exists already", "a new folder", "choose another name, or move it away")
    if args.push:
        from nnunetv2_clip.hub import require_name

        require_name("--push", args.push)


def _check_licence(args: argparse.Namespace, model) -> None:
    """Of weights that others have made, or with which the training started."""
    if model.may_be_shared:
        said = f"its weights come from others, under their licence: {model.licence}"
        print(f"Warning: {said}. Find out whether you may pass them on.", file=sys.stderr)
        return
    if args.licence:
        found = f"the weights have a licence already, which forbids to pass them on ({model.licence})"
        raise UserError("--licence", found, "no other licence", "leave it out")
    if args.push:
        found = f"the licence of its weights forbids to pass it on ({model.licence})"
        raise UserError(
            model.where, found, "a model that you may share", "let others make it from the original weights"
        )
    said = f"its licence forbids to pass this model on ({model.licence})"
    print(f"Warning: for your own use alone: {said}.", file=sys.stderr)


def _about(path: Path | None) -> str:
    try:
        return path.read_text(encoding="utf-8") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(path, f"cannot be read ({error})", "a text file in UTF-8", "check --about") from None


def _evaluation(path: Path | None, model: Path):
    from nnunetv2_clip.evaluation.results import Evaluation

    of_crossval = model / "evaluation" / "evaluation.json"
    path = path or (of_crossval if of_crossval.is_file() else None)
    return Evaluation.load(path) if path else None


def _save(target: Path, root: Path, folder: Path, zip_name: str, card: str) -> None:
    from nnunetv2_clip.files import replacing_folder, write_text
    from nnunetv2_clip.sharing.package import CARD, write_zip

    write_text(folder / CARD, card)  # in the zip it lies with the model, not loose in nnUNet_results
    with replacing_folder(target) as beside:
        write_zip(root, beside / zip_name)
        write_text(beside / CARD, card)
    print(f"Wrote {target}: {CARD} and {zip_name} ({(target / zip_name).stat().st_size / 1e6:.1f} MB).")


def _push(args: argparse.Namespace, folder: Path, name: str, card: str) -> None:
    from nnunetv2_clip.files import write_text
    from nnunetv2_clip.sharing.package import CARD
    from nnunetv2_clip.sharing.upload import plan_upload, upload

    own = {
        f"{name}/{file.relative_to(folder).as_posix()}": file for file in sorted(folder.rglob("*")) if file.is_file()
    }
    write_text(folder / CARD, card)
    plan = plan_upload(args.push, {CARD: folder / CARD, **own}, name, args.private)
    print(plan.text())
    if not args.licence:
        print("Warning: the card states no licence of the weights; name one with --licence.", file=sys.stderr)
    if not args.yes:
        print("Nothing was uploaded. The same command with --yes uploads it.")
        return
    print(f"Uploaded: {upload(plan, f'{folder.parent.name}, {folder.name}')}")
    print(f"Use it with -m hf:{args.push}")
