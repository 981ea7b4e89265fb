"""nnunetv2_clip evaluate"""

from nnunetv2_clip.commands._arguments import add
from nnunetv2_clip.commands._evaluation import add_folder_arguments


def add_arguments(parser):
    add_folder_arguments(parser)
    add(parser, "--tolerances", "--overlap-only", "--json")


def run(args):
    from nnunetv2_clip.commands._evaluation import settings_of, sides_of
    from nnunetv2_clip.evaluation.leaks import find_leaks
    from nnunetv2_clip.evaluation.report import recall_table, report_tables, write_evaluation
    from nnunetv2_clip.evaluation.results import strict_json
    from nnunetv2_clip.evaluation.study import evaluate
    from nnunetv2_clip.evaluation.tolerances import tolerances_mm

    reference, prediction, manifest, taxonomy = sides_of(args)
    leaked = find_leaks(manifest, args.train_manifest, prediction.files)
    tolerances = None if args.overlap_only else tolerances_mm(taxonomy.names, taxonomy, args.tolerances)
    evaluation = evaluate(reference, prediction, taxonomy, manifest, tolerances, leaked, args.np)
    evaluation.settings.update(settings_of(args, manifest), tolerances_mm=tolerances)
    folder = args.o or args.pred / "evaluation"
    write_evaluation(evaluation, folder)
    args.result = strict_json({name: value for name, value in evaluation.to_json().items() if name != "pairs"})
    print(report_tables(evaluation)[0].markdown())
    if evaluation.recalls:
        print(recall_table(evaluation).markdown())
    for note in evaluation.notes:
        print(note)
    if evaluation.leaked:
        print(f"{len(evaluation.leaked)} cases were seen in training and are reported apart.")
    print(f"\nWritten: {folder}/evaluation.json, .csv, .md and .html")
    evaluation.require_all("evaluate")
