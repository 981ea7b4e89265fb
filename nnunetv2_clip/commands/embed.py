"""nnunetv2_clip embed: the text table of a dataset's classes."""

import os
import sys
from pathlib import Path

from nnunetv2_clip.commands._arguments import ENCODER_DEVICE, add, require_ending
from nnunetv2_clip.errors import UserError


def add_arguments(parser):
    add(parser, "-d", help="dataset id or name (default: none, the 32 universal classes; -o is needed then)")
    parser.add_argument(
        "--encoder",
        metavar="ENCODER",
        help="open_clip:MODEL/TAG (default: open_clip:ViT-B-32/openai), "
        "open_clip:hf-hub:ORG/NAME, minilm, hf:MODEL_OR_FOLDER, onehot, random:SEED or file:PATH (.pth .npy .npz)",
    )
    parser.add_argument(
        "--prompt",
        metavar="TEMPLATE",
        action="append",
        help="V1, V2, V3, MRI or an own template with one {}, in which the class stands; give it several times to "
        "average (default: V3)",
    )
    add(parser, "--weights")
    add(parser, "--class-order", help="the class of each text vector, one name per line (for file:PATH)")
    add(parser, "-o", metavar="FILE", help="write this .npz file (default: text_embeddings.npz of the dataset)")
    add(parser, "-device", help=ENCODER_DEVICE)
    add(parser, "--overwrite")


def run(args) -> None:
    """Make, describe and save one table."""
    from nnunetv2_clip.classes import UNIVERSAL
    from nnunetv2_clip.text.encode import DEFAULT_ENCODER, encode
    from nnunetv2_clip.text.table import table_path

    if not args.d and not args.o:
        expected = "a dataset (-d 900), or a file for the universal classes (-o FILE.npz)"
        raise UserError("embed", "neither -d nor -o is given", expected)
    require_ending("-o", args.o, ".npz")
    target = args.o or table_path(args.d)
    rows = dataset_classes(args.d) if args.d else UNIVERSAL.rows
    encoder = DEFAULT_ENCODER if args.encoder is None else args.encoder  # an empty name is a mistake, not the default
    table = encode(encoder, rows, args.prompt, args.weights, args.class_order, args.device or "cpu")
    state = save_unless_different(table, target, args.overwrite)
    describe(table, target, state)


def dataset_classes(dataset: str) -> tuple:
    """The ClassRows of a dataset in channel order: names from dataset.json, prompt nouns from the manifest.

    Raises:
        UserError: no such dataset, or its dataset.json or manifest is missing or wrong.
    """
    from nnunetv2_clip.labels import class_names, load_dataset_json

    taxonomy, folder = dataset_taxonomy(dataset)
    dataset_file = folder / "dataset.json"
    names = class_names(load_dataset_json(dataset_file, "run 'nnunetv2_clip convert' again")["labels"])
    if not names:
        raise UserError(dataset_file, "declares no class under 'labels'", "a merged dataset", "convert again")
    return tuple(taxonomy.find(name, dataset_file) for name in names)


def dataset_taxonomy(dataset: str) -> tuple:
    """The Taxonomy in a dataset's manifest, and the folder that holds it.

    The raw folder is asked first: after a new conversion the preprocessed one may still be the old.

    Raises:
        UserError: no such dataset, or no manifest in it.
    """
    from nnunetv2_clip.manifest import FILE_NAME, Manifest
    from nnunetv2_clip.paths import dataset_name

    variables = ("nnUNet_raw", "nnUNet_preprocessed")
    name = dataset_name(dataset, *variables)
    folders = [Path(os.environ[variable]) / name for variable in variables if os.environ.get(variable)]
    folder = next((each for each in folders if (each / FILE_NAME).is_file()), None)
    if folder is None:
        found = f"there is no {FILE_NAME} in {' or '.join(map(str, folders))}"
        remedy = "run 'nnunetv2_clip convert'; for a table of the universal classes leave -d out and give -o FILE.npz"
        raise UserError(f"-d {dataset}", found, "a dataset merged by nnunetv2_clip", remedy)
    return Manifest.load(folder / FILE_NAME).taxonomy, folder


def save_unless_different(table, target, overwrite: bool) -> str:
    """Save the table; say "new", "replaced" or "unchanged".

    Raises:
        UserError: another table is there and `overwrite` is not given.
    """
    from nnunetv2_clip.text.table import TextTable

    if not target.exists():
        table.save(target)
        return "new"
    try:
        before = TextTable.load(target)
    except UserError:
        before = None  # damaged: nothing to protect, yet the user decides
    if before is not None and before.sha256 == table.sha256:
        return "unchanged"
    if not overwrite:
        found = f"another table is there ({before.encoder}, hash {before.sha256[:12]})" if before else "is damaged"
        expected = f"no table, or the same as the new one ({table.encoder}, hash {table.sha256[:12]})"
        remedy = "add --overwrite to replace it (a model trained with it needs it to go on training), or give -o FILE"
        raise UserError(target, found, expected, remedy)
    table.save(target)
    return "replaced"


def describe(table, target, state: str) -> None:
    """Print what a user wants to know about a new table; warnings go to stderr."""
    from nnunetv2_clip.text.similarity import pairs_by_similarity, warnings_of

    print(f"{target} ({state})")
    print(f"  classes x width  {len(table.class_names)} x {table.width}")
    print(f"  encoder          {table.encoder}  ({table.library})")
    if table.weights:
        print(f"  weights          {table.weights}")
    if table.prompts[0]:
        more = f"  (mean of {len(table.prompts[0])} templates)" if len(table.prompts[0]) > 1 else ""
        print(f"  first prompt     {table.prompts[0][0]!r}{more}")
    print(f"  sha256           {table.sha256}")
    pairs = pairs_by_similarity(table)
    if pairs:
        print("  nearest pair     {} and {}, cosine {:.3f}".format(*pairs[0]))
    for warning in warnings_of(table):
        print(f"Warning: {warning}", file=sys.stderr)
