"""nnunetv2_clip datasets"""

from nnunetv2_clip.commands._arguments import add


def add_arguments(parser):
    parser.add_argument("names", nargs="*", metavar="NAME", help="tell all about these sources (default: a table)")
    add(parser, "--json")


def run(args):
    from nnunetv2_clip.dataset_conversion.registry import all_sources, find_source

    sources = [find_source(name, "datasets ") for name in args.names] if args.names else list(all_sources().values())
    args.result = [facts(source) for source in sources]
    if args.names:
        print("\n\n".join(describe(source) for source in sources))
    else:
        print_table(sources)


def facts(source):
    """Everything that is known about a source, as JSON."""
    return {
        "name": source.name,
        "title": source.title,
        "cases": source.num_cases,
        "annotated": list(source.annotated),
        "absent": list(source.absent),
        "incomplete": list(source.incomplete),
        "split_by_side": [[pair.right, pair.left] for pair in source.pairs],
        "licence": source.licence,
        "url": source.url,
        "unpack": source.unpack,
        "repairs": dict(source.repairs),
        "left_out": dict(source.left_out),
        "as_in_paper": source.as_in_paper,
    }


def print_table(sources):
    rows = [("name", "cases", "classes", "title", "licence")]
    for source in sources:
        cases = str(source.num_cases or "-")
        rows.append((source.name, cases, str(len(source.drawn)), source.title, source.licence))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        print("  ".join([*cells, row[-1]]))
    print("\nAll about one: nnunetv2_clip datasets NAME. Your own: --source custom=TABLE.yaml.")


def describe(source):
    """What a user has to know to get and convert a source."""
    lines = [
        f"{source.name}: {source.title}",
        f"  labelled cases  {source.num_cases or 'varies'}",
        f"  classes         {', '.join(source.annotated) or 'none'}",
        f"  licence         {source.licence}",
        f"  where to get    {source.url}",
        f"  PATH is         {source.unpack}",
    ]
    if source.incomplete:
        lines.append(f"  drawn in part   {', '.join(source.incomplete)}")
    if source.absent:
        lines.append(f"  known absent    {', '.join(source.absent)}")
    for pair in source.pairs:
        lines.append(f"  split by side   {pair.right}, {pair.left}")
    for name, words in source.repairs.items():
        lines.append(f"  repair          {words} (off: --no-repair {name})")
    for case, reason in source.left_out.items():
        lines.append(f"  left out        {case}: {reason}")
    if source.as_in_paper:
        lines.append(f"  --as-paper      {source.as_in_paper}")
    lines.append(f"  convert         nnunetv2_clip convert -d 900 --source {source.name}=PATH")
    return "\n".join(lines)
