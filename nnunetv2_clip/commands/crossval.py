"""nnunetv2_clip crossval"""

from nnunetv2_clip.commands._arguments import SHARED, add, require_model_folder
from nnunetv2_clip.errors import UserError


def add_arguments(parser):
    add(parser, "-m", required=True, help="trained model: its folder (TRAINER__PLANS__CONFIGURATION)")
    add(parser, "-f", default=["0", "1", "2", "3", "4"], help="folds")
    add(parser, "-ref", help=f"{SHARED['-ref']['help']} (default: gt_segmentations of the preprocessed dataset)")
    add(parser, "--manifest", "--dataset-json", "-np", "--tolerances", "--overlap-only")
    parser.add_argument(
        "--merge",
        action="store_true",
        help="also write nnU-Net's crossval_results_folds_* with masked metrics, for find_best_configuration",
    )
    add(parser, "-o", help="output folder (default: the folder 'evaluation' in that of the model)")


def run(args):
    from nnunetv2_clip.commands._evaluation import reference_of
    from nnunetv2_clip.evaluation.crossval import collect_folds, fold_table, write_merged_folder
    from nnunetv2_clip.evaluation.paper.published import PUBLISHED_TABLES
    from nnunetv2_clip.evaluation.paper.tables import scores_of, write_paper_tables
    from nnunetv2_clip.evaluation.report import write_evaluation
    from nnunetv2_clip.evaluation.study import evaluate
    from nnunetv2_clip.evaluation.tolerances import tolerances_mm
    from nnunetv2_clip.paths import dataset_folder
    from nnunetv2_clip.trained_model import TrainedModel

    require_model_folder(args.m, "with its predictions of the validation cases")
    if args.ref is None:
        args.ref = dataset_folder("nnUNet_preprocessed", args.m.resolve().parent.name) / "gt_segmentations"
    reference, manifest, taxonomy, _ = reference_of(args)
    if args.merge and manifest is None:
        raise UserError("--merge", "the references have no manifest", "--manifest label_presence.json")
    prediction, fold_of = collect_folds(model := TrainedModel.open(args.m), args.f, taxonomy)
    tolerances = None if args.overlap_only else tolerances_mm(taxonomy.names, taxonomy, args.tolerances)
    evaluation = evaluate(reference, prediction, taxonomy, manifest, tolerances, num_processes=args.np)
    settings = {"reference": str(args.ref), "prediction": str(args.m), "tolerances_mm": tolerances}
    evaluation.settings.update(folds=fold_of, **settings)
    folder = args.o or args.m / "evaluation"
    write_evaluation(evaluation, folder)
    keys = [key for key, table in PUBLISHED_TABLES.items() if scores_of(evaluation, table)]
    row = {model.name: evaluation}
    folds_table = fold_table(evaluation, fold_of)
    tables = write_paper_tables(keys, row, folder, "crossval", "Cross-validation", before=[folds_table])
    for table in tables:
        print(table.markdown())
    if args.merge:
        print(f"Written: {write_merged_folder(model, prediction, args.ref, manifest, args.f, args.np)}/summary.json")
    print(f"Written to {folder}: evaluation.json, .csv, .md, .html, crossval.md, .html, .tex and pictures")
    evaluation.require_all("crossval")
