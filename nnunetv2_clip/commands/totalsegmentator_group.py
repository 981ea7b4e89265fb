"""nnunetv2_clip totalsegmentator-group"""

from pathlib import Path

from nnunetv2_clip.choices import TOTALSEGMENTATOR_GROUPS
from nnunetv2_clip.commands._arguments import add


def add_arguments(parser):
    parser.add_argument("--group", required=True, choices=TOTALSEGMENTATOR_GROUPS, help="group of structures")
    add(parser, "-i", required=True, help="folder of TotalSegmentator v1 (s0000/ct.nii.gz, ...)")
    add(parser, "-o", default=Path("."), help="for the two tables")


def run(args):
    from nnunetv2_clip.dataset_conversion.totalsegmentator_groups import write_group

    taxonomy, source = write_group(args.group, args.i, args.o)
    name = args.group.title()
    print(f"Next: nnunetv2_clip convert -d 903 --name {name} --taxonomy {taxonomy} --source custom={source}")
