"""nnunetv2_clip paper agreement"""

from nnunetv2_clip.commands._arguments import add, named_paths


def add_arguments(parser):
    add(
        parser,
        "-ref",
        nargs="+",
        type=str,
        default=[],
        metavar="NAME=FOLDER",
        help="reference label maps of a reader, in the label values of --dataset-json, or one folder of masks per case",
    )
    add(parser, "-pred", nargs="+", type=str, default=[], metavar="NAME=FOLDER", help="predictions of a model")
    add(parser, "--manifest", help="label_presence.json: annotated classes per case (default: every class everywhere)")
    add(parser, "--dataset-json", "-np")
    add(parser, "-o", required=True, help="output folder")


def run(args):
    from nnunetv2_clip.classes import UNIVERSAL
    from nnunetv2_clip.evaluation.figures import grouped_bars, save_figure
    from nnunetv2_clip.evaluation.folders import find_dataset_json, find_manifest, prediction_side, reference_side
    from nnunetv2_clip.evaluation.paper.agreement import agreement_table, reader_agreement, summarise_agreement
    from nnunetv2_clip.evaluation.report import write_tables

    folders = named_paths("-ref, -pred", [*args.ref, *args.pred])
    readers = named_paths("-ref", args.ref)
    json_file = args.dataset_json or next(filter(None, map(find_dataset_json, readers.values())), None)
    manifest = find_manifest(args.manifest, None)
    taxonomy = manifest.taxonomy if manifest else UNIVERSAL
    sources = {
        name: (
            reference_side(path, json_file, taxonomy) if name in readers else prediction_side(path, taxonomy, json_file)
        )
        for name, path in folders.items()
    }
    found = reader_agreement(sources, taxonomy, manifest, args.np)
    table = agreement_table(found)
    values = {
        name: {pair: (statistic.mean, statistic.std) for pair, statistic in row.items() if statistic.n}
        for name, row in summarise_agreement(found).items()
    }
    svg = save_figure(grouped_bars(values, "Agreement"), args.o, "agreement")
    write_tables([table], args.o, "agreement", "Agreement", pictures=[svg])
    print(table.markdown())
    print(f"Written: {args.o}/agreement.md, .html, .tex, .svg and .png")
    for pair, evaluation in found.items():
        evaluation.require_all(f"agreement of {pair}")
