"""What must fit before a night of GPU time is spent: manifest, labels, text embeddings and earlier folds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from batchgenerators.utilities.file_and_folder_operations import load_pickle
from tqdm import tqdm

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.files import read_json, write_json
from nnunetv2_clip.labels import classes_of_regions
from nnunetv2_clip.losses.masked import world_size
from nnunetv2_clip.manifest import FILE_NAME as MANIFEST_FILE
from nnunetv2_clip.manifest import Manifest
from nnunetv2_clip.text.table import TextTable
from nnunetv2_clip.trained_model import PLANS_JSON, ModelTables
from nnunetv2_clip.training.distributed import own_rank, share_of_rank


def check_labels_agree(manifest: Manifest, classes: Sequence[str], folder: Path) -> None:
    """Raises UserError unless every class that the manifest supervises is an output channel."""
    undeclared = sorted(set(manifest.supervised_classes()) - set(classes))
    if undeclared:
        found = f"supervises {undeclared}, which dataset.json does not declare"
        remedy = "run 'nnunetv2_clip convert' and 'nnUNetv2_plan_and_preprocess' again"
        raise UserError(folder / MANIFEST_FILE, found, "only classes of dataset.json", remedy)


def check_cases(manifest: Manifest, labels: Mapping, dataset) -> None:
    """Every case is in the manifest, and its label map shows no class that the manifest calls neither annotated nor
    incomplete nor pseudo label.

    What was found to agree is noted beside the folder of the preprocessed cases, with the time of each file, so that
    thousands of files are read only once; the processes of a training share them, as NCCL ends a training in which they
    wait ten minutes for one.

    Args:
        dataset: nnU-Net's dataset of the preprocessed cases (its `identifiers` and `source_folder`).

    Raises:
        UserError: names the case.
    """
    regions = classes_of_regions(labels)
    folder = Path(dataset.source_folder)
    note = folder.with_name(f"{folder.name}_labels_checked.json")
    agreed = read_json(note, "delete it") if note.is_file() else {}
    state = {
        case_id: [*sorted(_drawn(manifest, case_id)), (folder / f"{case_id}.pkl").stat().st_mtime_ns]
        for case_id in dataset.identifiers
    }
    waiting = [case_id for case_id in state if agreed.get(case_id) != state[case_id]]
    is_first, share = own_rank() == 0, len(waiting) // world_size()
    hidden = share < 50 or not is_first or None
    for case_id in tqdm(share_of_rank(waiting), "checking label maps", share, unit="case", disable=hidden):
        drawn = _drawn(manifest, case_id)
        locations = load_pickle(str(folder / f"{case_id}.pkl"))["class_locations"]  # without the images
        shown = {name for region, name in regions.items() if len(locations.get(region, ())) > 0}
        if shown - drawn:
            found = f"its label map contains {sorted(shown - drawn)}, which the manifest does not call annotated"
            expected = "every class that occurs in a label map among 'annotated' of the case"
            remedy = "correct the manifest, or convert and preprocess again"
            raise UserError(f"{manifest.where}, case {case_id!r}", found, expected, remedy)
    if waiting and is_first:  # all processes have read the note, and have found nothing
        write_json(note, {**agreed, **state})


def check_batch_feeds_all(batch_size: int, num_processes: int) -> None:
    """Raises UserError unless every process gets a case: nnU-Net divides the batch of the plans among them."""
    if batch_size < num_processes:
        raise UserError(
            "the plans",
            f"a batch of {batch_size} for {num_processes} GPUs",
            "at least one case for each GPU",
            f"train with {batch_size} GPUs at most, or plan under another name (-overwrite_plans_name) and raise "
            "'batch_size' in that file",
        )


def _drawn(manifest: Manifest, case_id: str) -> set[str]:
    """The classes that the label map of a case may show."""
    case = manifest.case(case_id)
    return {*case.drawn, *case.pseudo}


def check_same_text(model_folder: Path, text: TextTable) -> None:
    """Folds of one model folder share its plans.json: they must be trained on the same text embeddings.

    Raises:
        UserError: a fold was trained with another table.
    """
    if not any(model_folder.glob("fold_*/checkpoint_*.pth")):
        return
    before = ModelTables.beside(model_folder).text
    if before and before["sha256"] != text.sha256:
        raise UserError(
            model_folder / PLANS_JSON,
            f"a fold was trained with text embeddings of {before['encoder']} (hash {before['sha256'][:12]}), the "
            f"preprocessed folder now holds {text.encoder} (hash {text.sha256[:12]})",
            "one table for all folds of a model",
            "make the first table again ('nnunetv2_clip embed' with that encoder and prompt; for an extended model "
            "'nnunetv2_clip extend --overwrite'), or move the model folder away",
        )
