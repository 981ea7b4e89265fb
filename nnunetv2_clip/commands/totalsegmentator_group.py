"""nnunetv2_clip totalsegmentator-group"""

GROUPS = ("organs", "vertebrae", "cardiac", "muscles")


def add_arguments(parser):
    parser.add_argument("-g", required=True, choices=GROUPS, help="group of structures")
    parser.add_argument("-i", required=True, help="folder of TotalSegmentator v1 (s0000/ct.nii.gz, ...)")
    parser.add_argument("-o", default=".", help="folder for the two tables (default: here)")


def run(args):
    from pathlib import Path

    from nnunetv2_clip.dataset_conversion.totalsegmentator_groups import write_group

    classes, source = write_group(args.g, Path(args.i), Path(args.o))
    print(f"Next: nnunetv2_clip convert -d 903 --name {args.g.title()} --classes {classes} --source custom={source}")
