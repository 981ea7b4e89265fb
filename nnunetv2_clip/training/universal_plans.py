"""Stock plans in, plans that name the universal network out."""

import subprocess
from copy import deepcopy
from pathlib import Path

from nnunetv2_clip import __version__
from nnunetv2_clip.classes import Taxonomy
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.text.table import TextTable
from nnunetv2_clip.trained_model import NETWORK, PLANS_KEY
from nnunetv2_clip.training.extension import Extension


def universal_plans(
    plans: dict, configuration: str, text: TextTable, taxonomy: Taxonomy, datasets: dict | None = None
) -> dict:
    """A copy of `plans` in which `configuration` builds the universal network on the backbone that it named before.

    Raises:
        UserError: the plans have no such configuration, or it is a cascade.

    Args:
        text: the embeddings of exactly the dataset's classes, in channel order.
        taxonomy: of the manifest; the rows of the classes travel with the model.
        datasets: the manifest's numbers of cases, which travel with the model as well.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    if configuration not in plans["configurations"]:
        found = f"is not in the plans {plans.get('plans_name')!r}"
        expected = f"one of {', '.join(sorted(plans['configurations']))}"
        raise UserError(f"configuration {configuration!r}", found, expected, "name one of these, or plan again")
    stock = PlansManager(deepcopy(plans)).get_configuration(configuration)
    if stock.previous_stage_name is not None:
        found = "a cascade feeds a first network's label map to a second, which this trainer does not support"
        raise UserError(f"configuration {configuration!r}", found, "3d_fullres, 3d_lowres or 2d", "train 3d_fullres")
    result = deepcopy(plans)
    names = list(text.class_names)
    extension = Extension.of_plans(plans)
    result[PLANS_KEY] = {
        **(plans.get(PLANS_KEY) or {}),
        "version": __version__,
        "commit": source_commit(),
        "classes": [row for row in taxonomy.to_json() if row["name"] in names],
        "text": text.provenance,
        "datasets": datasets or {},
    }
    # Cascades are refused, so there is no next stage to predict for at the end of a 3d_lowres training.
    result["configurations"][configuration].pop("next_stage", None)
    if stock.network_arch_class_name != NETWORK:
        result["configurations"][configuration]["architecture"] = {
            "network_class_name": NETWORK,
            "arch_kwargs": {
                **stock.network_arch_init_kwargs,
                "backbone_class": stock.network_arch_class_name,
                "class_names": names,
                "text_width": text.width,
                **({"extensions": [list(part) for part in extension.parts]} if extension and extension.parts else {}),
            },
            "_kw_requires_import": list(stock.network_arch_init_kwargs_req_import),
        }
    return result


def source_commit() -> str:
    """The git commit of this package, with -dirty if files have changed since; empty where it is no git checkout."""
    own = Path(__file__)
    git = ["git", "-C", str(own.parent)]
    described = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    try:  # a virtual environment may lie in the checkout of something else, which does not track this file
        subprocess.run([*git, "ls-files", "--error-unmatch", own.name], check=True, capture_output=True, timeout=10)
        done = subprocess.run([*git, *described], check=True, capture_output=True, timeout=10, text=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
