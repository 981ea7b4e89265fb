"""nnunetv2_clip convert"""

from nnunetv2_clip.choices import CONTRADICTIONS, FIRST
from nnunetv2_clip.commands._arguments import add, named_path, next_steps
from nnunetv2_clip.commands._sources import add_source_arguments, find_input, find_inputs
from nnunetv2_clip.errors import UserError

EPILOG = """\
examples:
  nnunetv2_clip convert -d 900 --source msd_liver=Task03_Liver \\
    --source msd_spleen=Task09_Spleen
  nnunetv2_clip convert -d 900 --source custom=my_hospital.yaml \\
    --taxonomy my_classes.yaml
  nnunetv2_clip convert -d 900 --sources sources.yaml -np 4
  nnunetv2_clip convert -d 900 --sources sources.yaml --hold-out ircadb \\
    --exclude-msd-test Task03_Liver/imagesTs
on a cluster, as an array job of 20 and one job after it:
  nnunetv2_clip convert -d 900 --sources sources.yaml -num_parts 20 \\
    -part_id $SLURM_ARRAY_TASK_ID
  nnunetv2_clip convert -d 900 --sources sources.yaml --finish

sources.yaml is a list of NAME: PATH, with paths relative to the file:
  - msd_liver: Task03_Liver
  - custom: my_hospital.yaml
"""


def add_arguments(parser):
    parser.epilog = EPILOG
    add(parser, "-d", required=True)
    add(parser, "--name", default="Universal")
    add_source_arguments(parser)
    add(parser, "--copy")
    parser.add_argument(
        "--skip", action="append", default=[], metavar="CASE", help="leave out this case; give it once per case"
    )
    parser.add_argument(
        "--keep-copies",
        action="store_true",
        help="the same scan in several sources stays several cases of one group, instead of one case with all labels",
    )
    parser.add_argument(
        "--exclude-msd-test",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="imagesTs folders of the Decathlon: cases that show one of these scans are left out",
    )
    parser.add_argument(
        "--hold-out",
        action="append",
        default=[],
        metavar="ircadb|NAME=PATH",
        help="leave out the 20 patients of 3D-IRCADb-01, by their numbers in LiTS and its copies; or every scan of a "
        "source dataset that you have (custom=TABLE.yaml as well)",
    )
    parser.add_argument(
        "--contradictions",
        choices=CONTRADICTIONS,
        default=FIRST,
        help="where two sources of one scan contradict each other in a class: the source named first decides, or the "
        "class is unknown in these voxels",
    )
    parser.add_argument(
        "--compression", type=int, default=1, metavar="LEVEL", help="gzip level of written files, 1 to 9"
    )
    add(parser, "-np", "-num_parts", "-part_id")
    parser.add_argument("--finish", action="store_true", help="after all parts: copies, manifest, splits, dataset.json")


def run(args):
    from nnunetv2_clip.conversion.merge import run_finish, run_merge, run_part

    merge = read_merge(args)
    if args.num_parts > 1 and not args.finish:
        own, total = run_part(merge, args.part_id, args.num_parts)
        print(f"part {args.part_id} of {args.num_parts}: {own} of {total} cases are converted")
        print("Next: when all parts have ended, the same command with --finish instead of -num_parts and -part_id")
        return
    if args.as_paper:
        print("as in the paper: copies of a scan stay cases of their own (--keep-copies); splits never part them")
    summary = run_finish(merge) if args.finish else run_merge(merge)
    print_summary(summary, merge.target.folder)
    print(next_steps(args.d))


def read_merge(args):
    """What the command line asks for.

    Raises:
        UserError: an option that does not fit.
    """
    from nnunetv2_clip.conversion.merge import Merge
    from nnunetv2_clip.dataset_conversion.known_copies import known_scan

    inputs, taxonomy = find_inputs(args)
    outside, hold_out_ircadb = read_outside(args.exclude_msd_test, args.hold_out, taxonomy)
    return Merge(
        inputs=inputs,
        target=find_target(args.d, args.name),
        taxonomy=taxonomy,
        copy_images=args.copy,
        num_processes=args.np,
        compression=args.compression,
        skip=tuple(args.skip),
        outside=outside,
        hold_out_ircadb=hold_out_ircadb,
        keep_copies=args.keep_copies or args.as_paper,
        known_scan=known_scan,
        contradictions=args.contradictions,
    )


def read_outside(exclude_msd_test, hold_out, taxonomy):
    """The scans that must not be in the dataset, and whether 3D-IRCADb-01 is held out by its known numbers.

    Raises:
        UserError: a folder without images, or no such source.
    """
    from pathlib import Path

    from nnunetv2_clip.conversion.copies import held_out_scans, msd_test_images

    scans = msd_test_images([Path(folder).expanduser().absolute() for folder in exclude_msd_test])
    held_out = [named_path("--hold-out", option) for option in hold_out if option != "ircadb"]
    for name, path in held_out:
        entry = find_input(name, path, taxonomy)
        scans += held_out_scans(entry.source, entry.root)
    return tuple(scans), "ircadb" in hold_out or any(name == "ircadb" for name, _ in held_out)


def print_summary(summary, folder):
    total = sum(summary.num_cases.values())
    print(f"{total} cases with {len(summary.classes)} classes in {folder}")
    print(f"classes: {', '.join(summary.classes)}")
    if summary.num_merged:
        print(f"{summary.num_merged} cases are copies; their labels went into another case of the same scan.")
    if summary.num_groups < total:
        shared = total - summary.num_groups
        print(f"{shared} cases show a scan or a patient that another case shows as well; they share a fold.")
    if summary.num_left_out:
        print(f"{summary.num_left_out} cases are held out.")
    if not summary.has_splits:
        print("All cases are one scan or one patient: nothing can be held out. Train with fold 'all'.")
    for warning in summary.warnings:
        print(f"Look at this: {warning}")
    print(f"report: {folder / 'conversion_report.json'}")


def find_target(dataset, name):
    """Where to write.

    Raises:
        UserError: no dataset id, or one of nnU-Net's folders cannot be used.
    """
    from nnunetv2_clip.conversion.target import Target
    from nnunetv2_clip.paths import new_dataset_name, nnunet_folder

    folder_name = new_dataset_name("-d", dataset, name)
    folders = [nnunet_folder(variable) for variable in ("nnUNet_raw", "nnUNet_preprocessed")]
    if folders[0].resolve() == folders[1].resolve():
        raise UserError("nnUNet_raw", f"is the same folder as nnUNet_preprocessed: {folders[0]}", "two folders")
    for folder in folders:
        if folder.exists() and not folder.is_dir():
            raise UserError(folder, "is a file", "nnU-Net's folder", "correct nnUNet_raw or nnUNet_preprocessed")
    return Target(folders[0] / folder_name, folders[1] / folder_name)
