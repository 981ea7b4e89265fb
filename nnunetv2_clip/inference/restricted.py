"""A predictor of a trained universal model, restricted to some of its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nnunetv2_clip.trained_model import CLASS_EMBEDDING

if TYPE_CHECKING:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor


def restricted_dataset_json(dataset_json: Mapping, names: Sequence[str], label_values: Mapping[str, int]) -> dict:
    """dataset.json as the restricted model sees it: only these classes, painted in the given order and values."""
    labels = {"background": 0, **{name: dataset_json["labels"][name] for name in names}}
    if all(not isinstance(labels[name], list) or len(labels[name]) == 1 for name in names):
        only = labels[names[0]]  # nnU-Net applies the sigmoid only if some region lists more than one value
        labels[names[0]] = [only, only] if isinstance(only, int) else only * 2
    return {**dataset_json, "labels": labels, "regions_class_order": [label_values[name] for name in names]}


def learnt_classes(predictor: nnUNetPredictor) -> list[str]:
    """The predictor's classes that some fold has supervised."""
    flags = [weights[f"{CLASS_EMBEDDING}trained"].tolist() for weights in predictor.list_of_parameters]
    return [name for name, *seen in zip(predictor.network.class_names, *flags, strict=True) if any(seen)]


def drop_untrained(predictor: nnUNetPredictor) -> list[str]:
    """Take the classes out of a predictor that no fold has supervised, and say which stay (all, if none was).

    Their logits are constant and below every threshold, so that no mask changes.
    """
    names, trained = list(predictor.network.class_names), learnt_classes(predictor)
    if trained and trained != names:
        restrict(predictor, trained, dict(zip(names, predictor.dataset_json["regions_class_order"], strict=True)))
    return trained or names


def restrict(predictor: nnUNetPredictor, names: Sequence[str], label_values: Mapping[str, int]) -> None:
    """Drop the other classes from the network, from the weights of every fold and from the label manager.

    Args:
        names: in painting order.
        label_values: class -> value in the predicted label map.
    """
    rows = [predictor.network.class_names.index(name) for name in names]
    predictor.network.keep_classes(names)
    predictor.list_of_parameters = [
        {key: value[rows] if ".seg_layers." in key else value for key, value in weights.items()}
        for weights in predictor.list_of_parameters
    ]
    predictor.dataset_json = restricted_dataset_json(predictor.dataset_json, names, label_values)
    predictor.label_manager = predictor.plans_manager.get_label_manager(predictor.dataset_json)
