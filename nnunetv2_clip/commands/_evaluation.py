"""What the evaluation commands share: which folders to compare, and what their values mean."""

from nnunetv2_clip.commands._arguments import FILE, add


def add_folder_arguments(parser):
    add(parser, "-ref", "-pred", required=True)
    add(parser, "--manifest", "--dataset-json", "-np")
    parser.add_argument(
        "--label-values",
        action="store_true",
        help="the predictions hold the label values of the references",
    )
    parser.add_argument("--train-manifest", **FILE, help="label_presence.json of the training: finds seen scans")
    add(parser, "-o", help="output folder (default: the folder 'evaluation' in that of the predictions)")


def reference_of(args):
    """(reference side, manifest or None, taxonomy, file dataset.json or None) of the arguments."""
    from nnunetv2_clip.classes import UNIVERSAL
    from nnunetv2_clip.evaluation.folders import find_dataset_json, find_manifest, reference_side

    json_file = args.dataset_json or find_dataset_json(args.ref)
    manifest = find_manifest(args.manifest, json_file)
    taxonomy = manifest.taxonomy if manifest else UNIVERSAL
    return reference_side(args.ref, json_file, taxonomy), manifest, taxonomy, json_file


def sides_of(args):
    """(reference side, prediction side, manifest or None, taxonomy) of the arguments."""
    from nnunetv2_clip.evaluation.folders import prediction_side
    from nnunetv2_clip.imaging.intake import warn_of_headers

    reference, manifest, taxonomy, json_file = reference_of(args)
    prediction = prediction_side(args.pred, taxonomy, json_file, args.label_values)
    warn_of_headers([*reference.files.values(), *prediction.files.values()])
    return reference, prediction, manifest, taxonomy


def settings_of(args, manifest):
    """What was compared with what, for the results."""
    return {
        "reference": str(args.ref),
        "prediction": str(args.pred),
        "manifest": manifest.where if manifest else None,
        "train_manifest": str(args.train_manifest) if args.train_manifest else None,
    }
