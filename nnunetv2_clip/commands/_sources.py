"""The options by which several commands name source datasets."""

from dataclasses import replace
from pathlib import Path

from nnunetv2_clip.commands._arguments import FILE, add, named_path
from nnunetv2_clip.errors import UserError, suggestion


def add_source_arguments(parser):
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a source dataset and its folder, or custom=TABLE.yaml; give it once per source",
    )
    parser.add_argument("--sources", **FILE, help="YAML list of sources, instead of --source or as well")
    add(parser, "--taxonomy")
    parser.add_argument(
        "--no-repair",
        action="append",
        default=[],
        metavar="NAME",
        help="leave out a known repair (nnunetv2_clip datasets lists them); give it once per repair",
    )
    parser.add_argument(
        "--as-paper", action="store_true", help="make the paper's choices wherever ours are stricter, and say which"
    )


def find_inputs(args):
    """Every source with its folder, the paper's choices made and repairs switched off as asked for; the taxonomy."""
    from nnunetv2_clip.classes import UNIVERSAL

    taxonomy = UNIVERSAL.extended(args.taxonomy) if args.taxonomy else UNIVERSAL
    inputs = tuple(find_input(name, path, taxonomy) for name, path in named_sources(args.source, args.sources))
    if args.as_paper:
        inputs = tuple(map(as_paper, inputs))
    return without_repairs(inputs, args.no_repair), taxonomy


def named_sources(options, file):
    """(name, path) of every source on the command line and in the YAML file.

    Raises:
        UserError: something that is not a source.
    """
    pairs = [named_path("--source", option) for option in options]
    if file:
        pairs.extend(read_sources(file))
    if not pairs:
        raise UserError("--source", "no source is given", "--source NAME=PATH or --sources FILE")
    return pairs


def read_sources(file):
    """(name, path) of every source in a YAML list."""
    from nnunetv2_clip.tables import checked, read_yaml

    content = read_yaml(file, "a list of NAME: PATH")
    rows = [content] if isinstance(content, dict) else content
    rows = checked(list[dict[str, str]], rows, file, "NAME: PATH in each row; a text alone is not a source")
    return [(name, file.parent / Path(path).expanduser()) for row in rows for name, path in row.items()]


def find_input(name, path, taxonomy):
    """The source of this name with its folder.

    Raises:
        UserError: no such source, or a custom table that does not fit.
    """
    from nnunetv2_clip.conversion.merge import Input
    from nnunetv2_clip.dataset_conversion.custom import read_table
    from nnunetv2_clip.dataset_conversion.registry import all_sources, find_source

    if name != "custom":
        return Input(find_source(name), path.absolute())
    source, root = read_table(path, taxonomy)
    if source.name in all_sources():
        raise UserError(path, f"the name {source.name!r} is that of a public dataset", "a name of your own")
    return Input(source, root.absolute())


def as_paper(entry):
    """The same input with the paper's choices; says which these are."""
    if not entry.source.as_in_paper:
        return entry
    print(f"{entry.source.name}, as in the paper: {entry.source.as_in_paper}")
    return replace(entry, source=replace(entry.source, as_paper=True))


def without_repairs(inputs, names):
    """The inputs with some of their repairs switched off.

    Raises:
        UserError: no source has a repair of this name.
    """
    known = sorted({name for entry in inputs for name in entry.source.repairs})
    for name in names:
        if name not in known:
            found = f"the sources have no such repair.{suggestion(name, known)}"
            raise UserError(f"--no-repair {name}", found, f"one of {known}" if known else "no --no-repair")
    switched_off = frozenset(names)
    return tuple(replace(entry, source=replace(entry.source, switched_off=switched_off)) for entry in inputs)
