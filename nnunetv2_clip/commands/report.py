"""`nnunetv2_clip report`: one self-contained HTML page for predictions, a training, or both."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", type=Path, help="images of the predicted cases (<case>_0000.nii.gz or <case>.nii.gz)")
    parser.add_argument("-pred", type=Path, help="predictions of nnUNetv2_predict")
    parser.add_argument("-ref", type=Path, help="label files in the label values of dataset.json (labelsTr)")
    parser.add_argument("--dataset-json", type=Path, help="default: beside -ref, else beside -pred")
    parser.add_argument("--manifest", type=Path, help="default: label_presence.json beside dataset.json")
    parser.add_argument("--nsd", action="store_true", help="surface Dice (NSD) beside Dice; takes longer")
    parser.add_argument("--log-folder", type=Path, help="a fold of a training (fold_0), for its curves")
    parser.add_argument("--title", help="default: the name of the predictions' folder")
    parser.add_argument(
        "--max-pictures", type=int, default=100, help="show pictures of so many worst cases (default 100)"
    )
    parser.add_argument(
        "--viewer",
        type=int,
        default=0,
        metavar="N",
        help="scroll through the N worst cases in the page, with NiiVue (default 0; about 1 MB and 2 to 10 MB a case)",
    )
    parser.add_argument("-np", type=int, default=2, help="processes (default 2)")
    parser.add_argument("-o", type=Path, required=True, help="the HTML file to write")


def run(args: argparse.Namespace) -> None:
    from nnunetv2_clip.classes import UNIVERSAL
    from nnunetv2_clip.errors import UserError
    from nnunetv2_clip.files import write_text
    from nnunetv2_clip.report.cases import describe_case
    from nnunetv2_clip.report.curves import read_training
    from nnunetv2_clip.report.find import find_cases
    from nnunetv2_clip.report.page import render_page, worst_first
    from nnunetv2_clip.report.viewer_volumes import ViewerJob, viewer_case
    from nnunetv2_clip.runner import CasesFailed, good_and_bad, require_some, run_cases

    if args.pred is None and args.log_folder is None:
        raise UserError("report", "there is nothing to show", "-i and -pred, or --log-folder, or all of them")
    if (args.pred is None) != (args.i is None):
        raise UserError("report", "-i and -pred belong together", "both, or --log-folder alone")
    if args.pred is None and args.ref is not None:
        raise UserError("-ref", "has nothing to be compared with", "-i and -pred as well")
    if args.o.suffix not in (".html", ".htm"):
        raise UserError("-o", f"{str(args.o)!r}", "the name of a file that ends in .html")
    training = read_training(args.log_folder) if args.log_folder else None
    found = find_cases(args.i, args.pred, args.ref, args.dataset_json, args.manifest, args.nsd) if args.pred else []
    described, failed = require_some(run_cases(describe_case, found, "report", args.np), "report")
    cases = [outcome.result for outcome in described]
    by_case = {files.case_id: files for files in found}
    viewed = [ViewerJob(by_case[case.case_id], case.focus) for case in worst_first(cases)[: args.viewer]]
    shown, not_shown = good_and_bad(run_cases(viewer_case, viewed, "viewer", args.np, lambda job: job.files.case_id))
    viewer, failed = [outcome.result for outcome in shown], failed | not_shown
    title = args.title or f"Report of {(args.pred or args.log_folder).resolve().name}"
    taxonomy = found[0].taxonomy if found else UNIVERSAL
    presence_known = all(files.dataset for files in found if files.reference)
    html = render_page(title, cases, taxonomy, training, args.max_pictures, presence_known, viewer, failed)
    write_text(args.o, html)
    print(f"Wrote {args.o}: {len(cases)} cases, {len(html) / 1e6:.1f} MB. Open it in a browser.")
    if failed:
        raise CasesFailed("report", failed, len(found))
