"""nnunetv2_clip msd verify"""

from nnunetv2_clip.commands._arguments import DECATHLON, add
from nnunetv2_clip.errors import UserError


def add_arguments(parser):
    add(parser, "-i", required=True, help=DECATHLON)
    add(parser, "-pred", required=True, metavar="ZIP", help="predictions: the submission to check")
    add(parser, "--ct-only")


def run(args):
    from nnunetv2_clip.msd.tasks import CT_TASKS, TASKS
    from nnunetv2_clip.msd.verify import verify

    problems = verify(args.pred, args.i, CT_TASKS if args.ct_only else TASKS)
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise UserError(args.pred, f"{len(problems)} problem{'s' * (len(problems) > 1)}:{lines}\n", "none")
    print(f"{args.pred}: complete; names, geometry and label values are right.")
