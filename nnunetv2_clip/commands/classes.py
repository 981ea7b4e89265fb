"""nnunetv2_clip classes"""

from nnunetv2_clip.commands._arguments import add


def add_arguments(parser):
    add(parser, "--json")


def run(args):
    from nnunetv2_clip.classes import UNIVERSAL

    args.result = UNIVERSAL.to_json()
    for row in UNIVERSAL:
        parents = f"  inside {' or '.join(row.parents)}" if row.parents else ""
        print(f"{row.index:3d}  {row.name:26s}{row.snomed:40s}{parents}".rstrip())
