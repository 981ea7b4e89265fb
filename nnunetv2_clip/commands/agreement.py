"""nnunetv2_clip agreement"""

from pathlib import Path


def add_arguments(parser):
    parser.add_argument(
        "--labels",
        nargs="+",
        default=[],
        metavar="NAME=FOLDER",
        help="readers: label maps in the label values of --dataset-json, or a folder of masks per case",
    )
    parser.add_argument(
        "--painted", nargs="+", default=[], metavar="NAME=FOLDER", help="models: label maps of nnUNetv2_predict"
    )
    parser.add_argument("--dataset-json", type=Path, help="meaning of the label values [beside or above a folder]")
    parser.add_argument("--manifest", type=Path, help="label_presence.json, if not every class is annotated everywhere")
    parser.add_argument("-np", type=int, default=2, help="worker processes [2]")
    parser.add_argument("-o", type=Path, required=True, help="output folder")


def run(args):
    from nnunetv2_clip.classes import UNIVERSAL
    from nnunetv2_clip.commands._evaluation import named_paths
    from nnunetv2_clip.evaluation.figures import grouped_bars, save_figure
    from nnunetv2_clip.evaluation.folders import find_dataset_json, find_manifest, prediction_side, reference_side
    from nnunetv2_clip.evaluation.paper.agreement import agreement, agreement_table, summarise
    from nnunetv2_clip.evaluation.report import write_tables
    from nnunetv2_clip.labels import load_dataset_json

    folders = named_paths([*args.labels, *args.painted], "--labels, --painted")
    readers = named_paths(args.labels, "--labels")
    json_file = args.dataset_json or next(filter(None, map(find_dataset_json, readers.values())), None)
    dataset_json = load_dataset_json(json_file, "give that of the readers with --dataset-json") if json_file else None
    manifest = find_manifest(args.manifest, None)
    taxonomy = manifest.taxonomy if manifest else UNIVERSAL
    sources = {
        name: reference_side(path, dataset_json, taxonomy) if name in readers else prediction_side(path, taxonomy, None)
        for name, path in folders.items()
    }
    found = agreement(sources, taxonomy, manifest, args.np)
    table = agreement_table(found)
    values = {
        name: {pair: (statistic.mean, statistic.std) for pair, statistic in row.items() if statistic.n}
        for name, row in summarise(found).items()
    }
    svg = save_figure(
        grouped_bars(values, "Agreement", "Dice, mean and standard deviation over cases"), args.o, "agreement"
    )
    write_tables([table], args.o, "agreement", "Agreement", pictures=[svg])
    print(table.markdown())
    print(f"Written: {args.o}/agreement.md, .html, .tex, .svg and .png")
