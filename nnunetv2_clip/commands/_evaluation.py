"""What the evaluation commands share: which folders to compare, and what their values mean."""

from nnunetv2_clip.commands._arguments import FILE, add


def add_folder_arguments(parser):
    add(parser, "-ref", "-pred", required=True)
    add(parser, "--manifest", "--dataset-json", "-np")
    parser.add_argument(
        "--label-values", action="store_true", help="the predictions use the label values of dataset.json as well"
    )
    parser.add_argument("--train-manifest", **FILE, help="label_presence.json of the training: finds seen scans")
    add(parser, "-o", help="output folder (default: the folder 'evaluation' in that of the predictions)")


def reference_of(args):
    """(reference side, manifest or None, taxonomy, dataset.json or None) of the arguments."""
    from nnunetv2_clip.classes import UNIVERSAL
    from nnunetv2_clip.evaluation.folders import find_dataset_json, find_manifest, reference_side
    from nnunetv2_clip.labels import load_dataset_json

    json_file = args.dataset_json or find_dataset_json(args.ref)
    dataset_json = (
        load_dataset_json(json_file, "give that of the reference labels with --dataset-json") if json_file else None
    )
    manifest = find_manifest(args.manifest, json_file)
    taxonomy = manifest.taxonomy if manifest else UNIVERSAL
    return reference_side(args.ref, dataset_json, taxonomy), manifest, taxonomy, dataset_json


def sides_of(args):
    """(reference side, prediction side, manifest or None, taxonomy) of the arguments."""
    from nnunetv2_clip.evaluation.folders import prediction_side

    reference, manifest, taxonomy, dataset_json = reference_of(args)
    labels = dataset_json["labels"] if args.label_values and dataset_json else None
    return reference, prediction_side(args.pred, taxonomy, labels), manifest, taxonomy


def settings_of(args, manifest):
    """What was compared with what, for the results."""
    return {
        "reference": str(args.ref),
        "prediction": str(args.pred),
        "manifest": manifest.where if manifest else None,
        "train_manifest": str(args.train_manifest) if args.train_manifest else None,
    }
