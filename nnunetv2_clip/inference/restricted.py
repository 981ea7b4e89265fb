"""A stock nnU-Net predictor of a trained universal model, restricted to some of its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_clip.errors import UserError, suggestion
from nnunetv2_clip.files import read_json
from nnunetv2_clip.labels import class_names
from nnunetv2_clip.text.table import text_hash
from nnunetv2_clip.training.universal_plans import KEY

if TYPE_CHECKING:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor


def restricted_dataset_json(dataset_json: Mapping, names: Sequence[str], label_values: Mapping[str, int]) -> dict:
    """dataset.json as the restricted model sees it: only these classes, painted in the given order and values."""
    labels = {"background": 0, **{name: dataset_json["labels"][name] for name in names}}
    if all(not isinstance(labels[name], list) or len(labels[name]) == 1 for name in names):
        only = labels[names[0]]  # nnU-Net applies the sigmoid only if some region lists more than one value
        labels[names[0]] = [only, only] if isinstance(only, int) else only * 2
    return {**dataset_json, "labels": labels, "regions_class_order": [label_values[name] for name in names]}


def load_predictor(
    model_folder: Path | str,
    classes: Sequence[str] | None = None,
    label_values: Mapping[str, int] | None = None,
    folds: Sequence[int | str] | None = None,
    checkpoint: str = "checkpoint_final.pth",
    device: torch.device | str = "cuda",
    use_mirroring: bool = True,
    tile_step_size: float = 0.5,
    verbose: bool = False,
) -> nnUNetPredictor:
    """A predictor whose network, accumulation and export hold only the wanted classes.

    Args:
        model_folder: as nnUNetv2_train leaves it (plans.json, dataset.json, fold_X).
        classes: names in painting order, later ones on top; None: all classes of the model.
        label_values: value that each class gets in the predicted label map; None: its universal index.
        folds: None: every fold that has this checkpoint.
        device: "cuda", "cpu" or "mps".

    Raises:
        UserError: no model folder, no such fold, a class that the model does not know, or weights with other text
            embeddings than the plans state.
    """
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    folder = Path(model_folder)
    dataset_json = read_json(folder / "dataset.json", "give the folder of a trained model (TRAINER__PLANS__CONFIG)")
    if not isinstance(dataset_json, dict) or "labels" not in dataset_json:
        raise UserError(folder / "dataset.json", "has no table 'labels'", "the model's dataset.json")
    plans = read_json(folder / "plans.json", "give the folder of a trained model")
    if KEY not in plans:
        raise UserError(folder, "was not trained with CLIPUniversalTrainer", "a universal model")
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        raise UserError("-device", "this machine has no CUDA device", "cuda, cpu or mps", "-device cpu")
    known = class_names(dataset_json["labels"])
    order = dict(zip(known, dataset_json.get("regions_class_order", ()), strict=False))
    names = list(known if classes is None else classes)
    for name in names:
        if name not in known:
            unknown = f"the model does not know the class {name!r}.{suggestion(name, known)}"
            raise UserError(folder, unknown, f"one of {', '.join(known)}")
    used = _folds(folder, folds, checkpoint)
    with redirect_stdout(StringIO()):  # nnU-Net prints which folders and modules it searches for the trainer
        predictor = nnUNetPredictor(
            tile_step_size=tile_step_size,
            use_mirroring=use_mirroring,
            device=torch.device(device),
            verbose=verbose,
            verbose_preprocessing=verbose,
        )
        predictor.initialize_from_trained_model_folder(str(folder), used, checkpoint)
    for fold, weights in zip(used, predictor.list_of_parameters, strict=True):
        _check_text(folder / f"fold_{fold}" / checkpoint, weights, known, plans[KEY])
    if names != list(known) or label_values is not None:
        _restrict(predictor, known, names, label_values or order, deepcopy(dataset_json))
    return predictor


def _check_text(path: Path, weights: Mapping[str, torch.Tensor], classes: Sequence[str], ours: Mapping) -> None:
    """The text embeddings of a fold are those of the model: plans.json states their hash."""
    expected = (ours.get("text") or {}).get("sha256")
    found = text_hash(classes, weights["class_embedding.seg_layers.text_embedding"].float().cpu().numpy())
    if expected not in (None, found):
        raise UserError(
            path,
            f"its text embeddings have the hash {found[:12]}",
            f"{expected[:12]}, which plans.json states",
            "take plans.json and every fold from one training",
        )


def learnt_classes(predictor: nnUNetPredictor) -> list[str]:
    """The predictor's classes that some fold has supervised."""
    flags = [weights["class_embedding.seg_layers.trained"].tolist() for weights in predictor.list_of_parameters]
    return [name for name, *seen in zip(predictor.network.class_names, *flags, strict=True) if any(seen)]


def drop_untrained(predictor: nnUNetPredictor) -> list[str]:
    """Take the classes out of a predictor that no fold has supervised, and say which stay (all, if none was).

    Their logits are constant and below every threshold, so that no mask changes.
    """
    names, trained = list(predictor.network.class_names), learnt_classes(predictor)
    if trained and trained != names:
        values = dict(zip(names, predictor.dataset_json["regions_class_order"], strict=True))
        _restrict(predictor, names, trained, values, deepcopy(predictor.dataset_json))
    return trained or names


def _folds(folder: Path, folds: Sequence[int | str] | None, checkpoint: str) -> list[int | str]:
    there = sorted(path.parent.name[len("fold_") :] for path in folder.glob(f"fold_*/{checkpoint}"))
    wanted = [str(fold) for fold in folds] if folds is not None else there
    missing = [fold for fold in wanted if fold not in there]
    if missing or not wanted:
        raise UserError(
            folder,
            f"has no {checkpoint} in fold {missing or 'any'}",
            f"folds out of {there}" if there else "a finished training",
            "train these folds, or name others with -f",
        )
    return [fold if fold == "all" else int(fold) for fold in wanted]


def _restrict(predictor, known: Sequence[str], names: Sequence[str], label_values: Mapping, dataset_json: dict) -> None:
    """Drop the other classes from the network, from the weights of every fold and from the label manager."""
    rows = [known.index(name) for name in names]
    predictor.network.keep_classes(names)
    predictor.list_of_parameters = [
        {key: value[rows] if ".seg_layers." in key else value for key, value in weights.items()}
        for weights in predictor.list_of_parameters
    ]
    predictor.dataset_json = restricted_dataset_json(dataset_json, names, label_values)
    predictor.label_manager = predictor.plans_manager.get_label_manager(predictor.dataset_json)
