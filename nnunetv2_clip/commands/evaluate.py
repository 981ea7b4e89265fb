"""nnunetv2_clip evaluate"""

from pathlib import Path


def add_arguments(parser):
    parser.add_argument("-ref", type=Path, required=True, help="reference label maps, or one folder of masks per case")
    parser.add_argument("-pred", type=Path, required=True, help="predictions: label maps of nnUNetv2_predict, or masks")
    parser.add_argument("--manifest", type=Path, help="label_presence.json [the one beside dataset.json]")
    parser.add_argument("--dataset-json", type=Path, help="meaning of the label values [beside or above -ref]")
    parser.add_argument(
        "--label-values", action="store_true", help="the predictions use the label values of dataset.json as well"
    )
    parser.add_argument("--train-manifest", type=Path, help="label_presence.json of the training: finds seen scans")
    parser.add_argument("--tolerances", type=Path, help="YAML table of NSD tolerances in mm (docs/evaluation.md)")
    parser.add_argument("--overlap-only", action="store_true", help="no surface metrics (NSD, HD95): much faster")
    parser.add_argument("-o", type=Path, help="output folder [PREDICTIONS/evaluation]")
    parser.add_argument("-np", type=int, default=2, help="worker processes [2]")


def run(args):
    from nnunetv2_clip.classes import UNIVERSAL
    from nnunetv2_clip.errors import UserError
    from nnunetv2_clip.evaluation.folders import (
        find_dataset_json,
        find_manifest,
        load_dataset_json,
        prediction_side,
        reference_side,
    )
    from nnunetv2_clip.evaluation.leaks import leaked_cases
    from nnunetv2_clip.evaluation.report import report_tables, write_report
    from nnunetv2_clip.evaluation.study import evaluate
    from nnunetv2_clip.evaluation.tolerances import tolerances_mm
    from nnunetv2_clip.manifest import Manifest

    json_file = args.dataset_json or find_dataset_json(args.ref)
    dataset_json = load_dataset_json(json_file) if json_file else None
    manifest = find_manifest(args.manifest, json_file)
    if args.train_manifest and manifest is None:
        raise UserError("--train-manifest", "the references have no manifest", "--manifest label_presence.json")
    taxonomy = manifest.taxonomy if manifest else UNIVERSAL
    reference = reference_side(args.ref, dataset_json, taxonomy)
    labels = dataset_json["labels"] if args.label_values and dataset_json else None
    prediction = prediction_side(args.pred, taxonomy, labels)
    tolerances = None if args.overlap_only else tolerances_mm(taxonomy.names, taxonomy, args.tolerances)
    leaked = leaked_cases(manifest, Manifest.load(args.train_manifest)) if args.train_manifest else None
    evaluation = evaluate(reference, prediction, taxonomy, manifest, tolerances, leaked, args.np)
    evaluation.settings.update(
        reference=str(args.ref),
        prediction=str(args.pred),
        manifest=manifest.where if manifest else None,
        train_manifest=str(args.train_manifest) if args.train_manifest else None,
        tolerances_mm=tolerances,
    )
    folder = args.o or args.pred / "evaluation"
    write_report(evaluation, folder)
    print(report_tables(evaluation)[0].markdown())
    for note in evaluation.notes:
        print(note)
    if evaluation.leaked:
        print(f"{len(evaluation.leaked)} cases were seen in training and are reported apart.")
    print(f"\nWritten: {folder}/evaluation.json, .csv, .md and .html")
