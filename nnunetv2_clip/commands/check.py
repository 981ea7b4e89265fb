"""nnunetv2_clip check"""

from pathlib import Path

from nnunetv2_clip.commands._arguments import add
from nnunetv2_clip.commands._sources import add_source_arguments, find_inputs

EPILOG = """\
examples:
  nnunetv2_clip check --source msd_liver=Task03_Liver --source lits=LiTS
  nnunetv2_clip check --sources sources.yaml --sample 10 -np 8 -o check.html

Exit code 1 when something would be wrong after a conversion, or would stop it.
"""


def add_arguments(parser):
    parser.epilog = EPILOG
    add_source_arguments(parser)
    add(parser, "-o", default=Path("check.html"), metavar="FILE", help="the page to write")
    parser.add_argument(
        "--sample", type=int, metavar="N", help="read the voxels of N cases per source only (headers of all)"
    )
    parser.add_argument("--partial", action="store_true", help="fewer cases than the complete download are no problem")
    add(parser, "-np", "--json")


def run(args):
    import shutil

    from nnunetv2_clip.conversion.check import check_downloads
    from nnunetv2_clip.files import write_text
    from nnunetv2_clip.report.check_page import in_words, render_check

    inputs, taxonomy = find_inputs(args)
    check = check_downloads(inputs, taxonomy, args.sample, args.np, not args.partial)
    write_text(args.o, render_check(check))

    for source in check.sources:
        expected = source.expected if source.expected is not None else "any number of"
        print(f"{source.source.name}: {source.num_found} of {expected} cases in {source.root}")
        for remark in source.remarks:
            print(f"  {remark}")
    if check.copies:
        print(f"{len(check.copies)} pairs of cases show the same scan")
    needed = sum(source.num_bytes for source in check.sources)
    free = shutil.disk_usage(args.o.absolute().parent).free
    print(f"disk space for the converted dataset, estimated: {in_words(needed)}; {in_words(free)} are free here")
    for problem in check.problems:
        print(f"Problem: {problem}")
    print(f"page: {args.o}")
    args.result = {
        "sources": [
            {
                "name": each.source.name,
                "folder": each.root,
                "found": each.num_found,
                "expected": each.expected,
                "remarks": each.remarks,
            }
            for each in check.sources
        ],
        "copies": [[copy.first, copy.second] for copy in check.copies],
        "needed_bytes": needed,
        "problems": list(check.problems),
        "page": str(args.o),
    }
    return 1 if check.problems else 0
