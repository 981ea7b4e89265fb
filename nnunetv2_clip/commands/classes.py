"""nnunetv2_clip classes"""


def add_arguments(parser):
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(args):
    from nnunetv2_clip.classes import UNIVERSAL

    if args.json:
        import json

        print(json.dumps(UNIVERSAL.to_json(), indent=2))
        return
    for row in UNIVERSAL:
        parents = f"  inside {' or '.join(row.parents)}" if row.parents else ""
        print(f"{row.index:3d}  {row.name:26s}{parents}")
