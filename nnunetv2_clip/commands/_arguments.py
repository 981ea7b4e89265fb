"""Arguments that mean the same, and say the same, in every command that has them."""

from argparse import ArgumentParser
from math import inf
from pathlib import Path

from nnunetv2_clip import choices
from nnunetv2_clip.errors import UserError


def _device(text):
    """None stands for the fastest device that is there."""
    return None if text == "auto" else text


DEVICES = "cpu, cuda, cuda:1, mps, ..."
ENCODER_DEVICE = f"{DEVICES} (default: auto; for text that is the CPU, so that a table is the same everywhere)"
DECATHLON = "the challenge's data as downloaded: the folder with Task01_BrainTumour, ..."

# The smallest and the largest value that numbers may have.
RANGES = {
    "-np": (1, inf),
    "-num_parts": (1, inf),
    "-part_id": (0, inf),
    "--sample": (1, inf),
    "--repeats": (1, inf),
    "--compression": (1, 9),
}

FILE = {"type": Path, "metavar": "FILE"}
FOLDER = {"type": Path, "metavar": "FOLDER"}
SHARED = {
    "-i": FOLDER,
    "--series": {
        "metavar": "SERIES",
        "default": "",
        "help": "of DICOM folders with several: number, beginning of the UID, or part of the description",
    },
    "-o": FOLDER,
    "-d": {"metavar": "DATASET", "help": "dataset id (900) or name (Dataset900_Universal)"},
    "-m": {
        "type": Path,
        "metavar": "MODEL",
        "help": "trained model: its folder (TRAINER__PLANS__CONFIGURATION), a zip of nnUNetv2_export_model_to_zip, or "
        "hf:ORG/NAME on the Hugging Face hub (hf:ORG/NAME@REVISION)",
    },
    "-tr": {"metavar": "TRAINER", "default": choices.TRAINER, "help": "trainer"},
    "-p": {"metavar": "PLANS", "default": choices.PLANS, "help": "plans"},
    "-c": {
        "metavar": "CONFIGURATION",
        "help": f"configuration (default: {choices.CONFIGURATION}; of a zip, the only one that is in it)",
    },
    "-f": {"nargs": "+", "metavar": "FOLD", "help": "folds (default: all that are there)"},
    "-chk": {"metavar": "CHECKPOINT", "default": choices.CHECKPOINT, "help": "checkpoint"},
    "-device": {"type": _device, "metavar": "DEVICE", "help": f"{DEVICES} (default: auto)"},
    "-np": {"type": int, "metavar": "N", "default": 2, "help": "worker processes"},
    "-num_parts": {"type": int, "metavar": "N", "default": 1, "help": "share the cases among so many jobs"},
    "-part_id": {"type": int, "metavar": "N", "default": 0, "help": "number of this job, from 0"},
    "-step_size": {"type": float, "metavar": "STEP", "default": 0.5, "help": "of the sliding window, in patches"},
    "--disable_tta": {"action": "store_true", "help": "no mirroring (left and right are never mirrored)"},
    "-overwrite_plans_name": {"metavar": "PLANS", "help": "name of the plans to write, without .json"},
    "-ref": {**FOLDER, "help": "reference label maps, or one folder of masks per case"},
    "-pred": {**FOLDER, "help": "predictions (of nnUNetv2_predict or 'predict')"},
    "--classes": {"nargs": "+", "metavar": "CLASS", "help": "only these classes, by name or alias (default: all)"},
    "--taxonomy": {**FILE, "help": "YAML table of your own classes (index from 33 on)"},
    "--name": {"metavar": "NAME", "help": "name of the dataset, after its id"},
    "--copy": {"action": "store_true", "help": "copy images that need no change instead of linking them"},
    "--dataset-json": {
        **FILE,
        "help": "meaning of the label values (default: dataset.json in or above the folder of the references)",
    },
    "--manifest": {
        **FILE,
        "help": "label_presence.json: annotated classes per case (default: in the folder of dataset.json)",
    },
    "--tolerances": {**FILE, "help": "YAML table of NSD tolerances in mm (docs/evaluation.md)"},
    "--overlap-only": {"action": "store_true", "help": "no surface metrics (NSD, HD95): much faster"},
    "--class-order": {**FILE, "help": "the class of each text vector, one name per line"},
    "--weights": {**FILE, "help": "local weights file for open_clip, instead of the download"},
    "--rules": {**FILE, "help": "YAML table of post-processing per task (docs/msd.md)"},
    "--ct-only": {"action": "store_true", "help": "only the six CT tasks (for local use)"},
    "--overwrite": {"action": "store_true", "help": "replace what is there"},
    "--json": {"action": "store_true", "help": "print the result as JSON, and nothing else"},
}


def add(parser: ArgumentParser, *names: str, **changes: object) -> None:
    """Add shared arguments; `changes` are options of add_argument that this command has otherwise."""
    for name in names:
        parser.add_argument(name, **{**SHARED[name], **changes})


def add_model_or_dataset(parser: ArgumentParser) -> None:
    """-m, or -d with -tr, -p and -c; then the folds, the checkpoint and the device."""
    add(parser, "-m")
    add(parser, "-d", help="instead of -m: dataset id or name of a model of -tr, -p and -c in nnUNet_results")
    add(parser, "-tr", "-p", "-c", "-f", "-chk", "-device")


def trained_model(command: str, args, written: str = ""):
    """The TrainedModel that -m names, or else the model that nnUNetv2_train has left for -d, -tr, -p and -c.

    Args:
        written: what the command writes into the model, which then has to be a folder.

    Raises:
        UserError: both or neither of -m and -d, or no such model.
    """
    from nnunetv2_clip.trained_model import TrainedModel

    require_one(command, args, "d", "DATASET with -tr, -p, -c")
    if args.m and written:
        require_model_folder(args.m, f"{written} are written into it")
    if args.m:
        return TrainedModel.open(args.m, args.c)
    return TrainedModel.of_dataset(args.d, args.tr, args.p, args.c or choices.CONFIGURATION)


def require_model_folder(path: Path, why: str) -> None:
    """Raises UserError: -m names a zip or a model on the hub."""
    if not path.is_dir():
        raise UserError("-m", f"{path} is not a folder", f"a model folder: {why}", "unpack the zip, or check the path")


def model_or_predictions(command: str, args, zips: bool = False) -> Path:
    """The folder that -m or -pred names; with `zips` also the zip or the model on the hub that -m names.

    Raises:
        UserError: both or neither, or it is not a folder.
    """
    require_one(command, args, "pred", "FOLDER")
    folder, option = (args.m, "-m") if args.m else (args.pred, "-pred")
    if not folder.is_dir() and not (args.m and zips):
        found, expected = f"{folder} is not a folder", "the folder of a model or of predictions"
        raise UserError(option, found, expected, "check the path")
    return folder


def require_one(command: str, args, other: str, value: str) -> None:
    """Raises UserError: both or neither of -m and -`other`."""
    if (args.m is None) == (getattr(args, other) is None):
        raise UserError(command, f"needs either -m or -{other}", f"-m MODEL, or -{other} {value}")


def require_ending(option: str, path: Path | None, *endings: str) -> None:
    """Raises UserError: a file is named that ends otherwise."""
    if path and path.suffix not in endings:
        raise UserError(option, f"{str(path)!r}", f"the name of a file that ends in {endings[0]}")


def require_ranges(args) -> None:
    """Raises UserError: a number that makes no sense in any command."""
    for option, (lowest, highest) in RANGES.items():
        value = getattr(args, option.strip("-"), None)
        if value is not None and not lowest <= value <= highest:
            raise UserError(option, str(value), f"{lowest} or more" if highest == inf else f"{lowest} to {highest}")
    if getattr(args, "part_id", 0) >= getattr(args, "num_parts", 1):
        raise UserError("-part_id", str(args.part_id), f"0 to {args.num_parts - 1} with -num_parts {args.num_parts}")


def named_path(option: str, text: str) -> tuple[str, Path]:
    """(NAME, PATH) of a text NAME=PATH. Raises UserError: no =, or nothing on one side of it."""
    name, _, path = text.partition("=")
    if not name or not path:
        raise UserError(option, repr(text), "NAME=PATH")
    return name, Path(path).expanduser()


def named_paths(option: str, texts) -> dict[str, Path]:
    """NAME -> PATH of texts NAME=PATH. Raises UserError: one that is not, or a name twice."""
    pairs = [named_path(option, text) for text in texts]
    if len(dict(pairs)) < len(pairs):
        raise UserError(option, f"names one twice: {', '.join(texts)}", "one name each")
    return dict(pairs)


def next_steps(dataset: str) -> str:
    """What follows when a raw dataset is there."""
    return f"""Next:
  nnunetv2_clip embed -d {dataset}
  nnUNetv2_plan_and_preprocess -d {dataset} -pl {choices.STOCK_PLANNER} -c {choices.CONFIGURATION}
  nnUNetv2_train {dataset} {choices.CONFIGURATION} 0 -tr {choices.TRAINER} -p {choices.PLANS}"""
