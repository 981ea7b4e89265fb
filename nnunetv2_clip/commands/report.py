"""`nnunetv2_clip report`: one self-contained HTML page for predictions, a training, or both."""

import argparse
import sys

from nnunetv2_clip.commands._arguments import FOLDER, add, require_ending
from nnunetv2_clip.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "-i", help="images of the predicted cases: what predict takes")
    add(parser, "--series", "-pred")
    add(parser, "-ref", help="reference label maps in the label values of dataset.json (labelsTr)")
    add(parser, "--dataset-json", "--manifest")
    parser.add_argument("--nsd", action="store_true", help="surface Dice (NSD) as well as Dice; takes longer")
    parser.add_argument("--log-folder", **FOLDER, help="a fold of a training (fold_0), for its curves")
    parser.add_argument("--title", metavar="TEXT", help="of the page (default: name of the folder of predictions)")
    parser.add_argument(
        "--max-pictures", type=int, default=100, metavar="N", help="show pictures of so many worst cases"
    )
    parser.add_argument(
        "--viewer",
        type=int,
        default=0,
        metavar="N",
        help="scroll through the N worst cases in the page, with NiiVue; about 1 MB and 2 to 10 MB a case",
    )
    add(parser, "-np")
    add(parser, "-o", required=True, metavar="FILE", help="the HTML file to write")


def run(args: argparse.Namespace) -> None:
    from nnunetv2_clip.classes import UNIVERSAL
    from nnunetv2_clip.files import write_text
    from nnunetv2_clip.imaging.intake import warn_of_headers
    from nnunetv2_clip.report.cases import describe_case
    from nnunetv2_clip.report.curves import read_training
    from nnunetv2_clip.report.find import find_files
    from nnunetv2_clip.report.page import render_page, worst_first
    from nnunetv2_clip.report.viewer_volumes import ViewerJob, viewer_case
    from nnunetv2_clip.runner import CasesFailed, good_and_bad, require_some, run_cases

    if args.pred is None and args.log_folder is None:
        raise UserError("report", "there is nothing to show", "-i and -pred, or --log-folder, or all of them")
    if (args.pred is None) != (args.i is None):
        raise UserError("report", "-i and -pred belong together", "both, or --log-folder alone")
    if args.pred is None and args.ref is not None:
        raise UserError("-ref", "has nothing to be compared with", "-i and -pred as well")
    require_ending("-o", args.o, ".html", ".htm")
    training = read_training(args.log_folder) if args.log_folder else None
    files = (args.i, args.pred, args.ref, args.dataset_json, args.manifest, args.nsd, args.series)
    found = find_files(*files) if args.pred else []
    warn_of_headers([path for files in found for path in (files.prediction, files.reference) if path])
    described, failed = require_some(run_cases(describe_case, found, "report", args.np), "report")
    cases = [outcome.result for outcome in described]
    for case in cases:
        for warning in case.warnings:
            print(f"Warning: {case.case_id}: {warning}", file=sys.stderr)
    by_case = {files.case_id: files for files in found}
    viewed = [ViewerJob(by_case[case.case_id], case.focus, case.window) for case in worst_first(cases)[: args.viewer]]
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
