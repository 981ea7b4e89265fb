"""nnunetv2_clip detect"""

from nnunetv2_clip.choices import ANY, FRACTION, OVERLAP_RULES, PATIENT_RULES
from nnunetv2_clip.commands._arguments import add
from nnunetv2_clip.commands._evaluation import add_folder_arguments
from nnunetv2_clip.errors import UserError


def add_arguments(parser):
    add_folder_arguments(parser)
    add(parser, "--classes", help="only these classes, by name or alias (default: every *_tumor)")
    parser.add_argument(
        "--min-lesion-ml", type=float, default=0.1, metavar="ML", help="smaller components are not lesions"
    )
    parser.add_argument(
        "--overlap-rule",
        choices=OVERLAP_RULES,
        default=FRACTION,
        help="a lesion is found when this much of it is covered, or by intersection over union",
    )
    parser.add_argument(
        "--min-overlap", type=float, default=0.1, metavar="FRACTION", help="threshold of the overlap rule"
    )
    parser.add_argument(
        "--patient-rule",
        choices=PATIENT_RULES,
        default=ANY,
        help="a patient with tumour counts as detected by any predicted lesion, or only by a found one",
    )
    parser.add_argument(
        "--empty-is-free",
        action="store_true",
        help="cases that annotate a class and have none of it count for specificity, with those known to be free",
    )


def run(args):
    from nnunetv2_clip.commands._evaluation import settings_of, sides_of
    from nnunetv2_clip.evaluation.detection import detect, tumor_classes, write_detection
    from nnunetv2_clip.evaluation.leaks import find_leaks
    from nnunetv2_clip.evaluation.lesions import LesionRule
    from nnunetv2_clip.runner import CasesFailed

    if not 0 < args.min_overlap <= 1:
        raise UserError("--min-overlap", str(args.min_overlap), "a fraction above 0, at most 1")
    if not 0 <= args.min_lesion_ml < float("inf"):
        raise UserError("--min-lesion-ml", str(args.min_lesion_ml), "a volume of 0 ml or more")
    reference, prediction, manifest, taxonomy = sides_of(args)
    leaked = find_leaks(manifest, args.train_manifest, prediction.files)
    given = args.classes or tumor_classes(taxonomy)
    names = tuple(taxonomy.find(name, "--classes").name for name in given)
    rule = LesionRule(args.min_lesion_ml, args.overlap_rule, args.min_overlap)
    cases, failed = detect(
        reference, prediction, taxonomy, manifest, names, rule, args.patient_rule, args.empty_is_free, args.np
    )
    chosen = ("min_lesion_ml", "overlap_rule", "min_overlap", "patient_rule", "empty_is_free")
    settings = settings_of(args, manifest) | {name: getattr(args, name) for name in chosen}
    if failed:
        settings["failed"] = {name: str(error) for name, error in sorted(failed.items())}
    folder = args.o or args.pred / "evaluation"
    for table in write_detection(cases, settings, folder, leaked)[:2]:
        print(table.markdown())
    if leaked:
        print(f"{len(leaked)} cases were seen in training and are reported apart.")
    print(f"Written: {folder}/detection.json, .csv, .md, .html and .tex")
    if failed:
        raise CasesFailed("detect", failed, len({case.case_id for case in cases} | set(failed)))
