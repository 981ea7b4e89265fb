"""nnunetv2_clip msd rehearse"""

from nnunetv2_clip.commands._arguments import DECATHLON, add, model_or_predictions, require_ending


def add_arguments(parser):
    add(parser, "-i", required=True, help=DECATHLON)
    add(parser, "-m", help="trained model: its folder, for the predictions in fold_*/validation")
    add(parser, "-pred", help="instead of -m: predictions of training images")
    add(parser, "--rules", "-np")
    add(parser, "-o", metavar="FILE", help="JSON file for the scores (default: none)")


def run(args):
    from nnunetv2_clip.files import write_json
    from nnunetv2_clip.msd.post_processing import read_rules
    from nnunetv2_clip.msd.rehearsal import find_rehearsal, rehearsal_text, rehearse_case, summarise
    from nnunetv2_clip.runner import CasesFailed, require_some, run_cases
    from nnunetv2_clip.trained_model import ModelTables

    folder = model_or_predictions("msd rehearse", args)
    require_ending("-o", args.o, ".json")
    cases = find_rehearsal(folder, args.i, ModelTables.beside(folder).taxonomy, read_rules(args.rules))
    outcomes = run_cases(rehearse_case, cases, "rehearsal", args.np, name_of=lambda case: case.prediction)
    scored, failed = require_some(outcomes, "rehearsal")
    rows = summarise(score for outcome in scored for score in outcome.result)
    print(rehearsal_text(rows))
    if args.o is not None:
        write_json(args.o, rows)
    if failed:
        raise CasesFailed("rehearsal", failed, len(cases))
