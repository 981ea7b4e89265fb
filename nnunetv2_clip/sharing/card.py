"""The model card: what a model is, learnt, and is not for, from its own files; front matter as the hub reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from nnunetv2_clip.evaluation.results import Evaluation
from nnunetv2_clip.pages import render
from nnunetv2_clip.report.model_info import describe_model
from nnunetv2_clip.trained_model import TrainedModel

NO_DERIVATIVES = re.compile(r"\bND\b|no.?deriv", re.IGNORECASE)
PREDICTED_PIPELINE = "image-segmentation"  # the hub's name of the task


@dataclass(frozen=True)
class AuthorsWords:
    """What only the author of a model knows.

    Attributes:
        licence: of the weights, as the hub names it (cc-by-4.0); empty: not stated.
        about: Markdown for the top of the card.
        evaluation: on other data than the validation cases, or of all folds; None: none.
    """

    licence: str = ""
    about: str = ""
    evaluation: Evaluation | None = None


def model_card(model: TrainedModel, place: str, words: AuthorsWords) -> str:
    """The text of README.md.

    Args:
        model: what is shared.
        place: what users will give to -m.
    """
    info = describe_model(model)
    return render(
        "model_card.md.j2",
        front_matter=_front_matter(info, words, model.licence),
        info=info,
        place=place,
        words=words,
        modality=model.modality,
        licence=words.licence or model.licence,
        mean_dice=_mean_dice(info),
        evaluated=_evaluated(words.evaluation),
        never_learnt=[name for name in model.classes if name not in (model.known or model.classes)],
        dead=sorted({name for fold in info["folds"].values() for name in fold["dead"]}),
        pseudo=[row["name"] for row in info["classes"] if row["pseudo_cases"]],
        weights={
            file: digest
            for fold, names in model.checkpoints.items()
            for name in names
            for file, digest in model.checksums([fold], name).items()
        },
    )


def data_that_forbids_derivatives(licences: Mapping[str, str]) -> list[str]:
    return [source for source, text in licences.items() if NO_DERIVATIVES.search(text)]


def _front_matter(info: Mapping, words: AuthorsWords, licence: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    dice = _mean_dice(info)
    name = f"validation cases of {info['dataset']}"
    score = EvalResult(PREDICTED_PIPELINE, "medical-images", name, "dice", dice, metric_name="mean Dice over classes")
    return ModelCardData(
        license=words.licence or "other",
        license_name=None if words.licence else "see-below" if licence else "not-stated",
        library_name="nnunetv2_clip",
        pipeline_tag=PREDICTED_PIPELINE,
        tags=["medical", "segmentation", "nnU-Net", "nnunetv2", "CLIP-Driven Universal Model"],
        model_name=info["name"],
        eval_results=None if dice is None else [score],
    ).to_yaml()


def _mean_dice(info: Mapping) -> float | None:
    values = [row["validation_dice"] for row in info["classes"] if row["validation_dice"] is not None]
    return round(fmean(values), 4) if values else None


def _evaluated(evaluation: Evaluation | None) -> dict:
    """Class -> Statistic of Dice."""
    table = evaluation.summarise(evaluation.headline_pairs) if evaluation else {}
    return {name: row["Dice"] for name, row in table.items() if row["Dice"].n}
