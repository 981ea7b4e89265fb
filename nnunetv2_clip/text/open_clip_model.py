"""open_clip's text towers: sentences -> vectors, through its own loading code. The only import of open_clip."""

# Shapes: N sentences, E width of the text embedding.

from __future__ import annotations

import zipfile
from contextlib import nullcontext
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import numpy as np

from nnunetv2_clip.errors import UserError, suggestion
from nnunetv2_clip.text.hub import not_loadable, offline_unless_reachable, quiet_logging
from nnunetv2_clip.text.packages import optional, versions

BATCH_SIZE = 64


def open_clip_vectors(
    model_and_tag: str, flat: list[str], weights: Path | str | None, device: str
) -> tuple[np.ndarray, str]:
    """(N, E) float32 of an open_clip model, and the library's version. Long sentences are cut by its tokenizer.

    Args:
        model_and_tag: "ViT-B-32/openai", "hf-hub:ORG/NAME" or "local-dir:FOLDER".
        weights: a file for this model instead of the download; the tag then only says how it was trained.

    Raises:
        UserError: unknown model or tag, weights that cannot be had or do not fit.
    """
    open_clip = optional("open_clip", "pip install open_clip_torch")
    import torch

    folder = model_and_tag.removeprefix("local-dir:") if model_and_tag.startswith("local-dir:") else None
    has_schema = model_and_tag.startswith(("hf-hub:", "local-dir:"))
    model_name, tag = (model_and_tag, None) if has_schema else model_and_tag.rsplit("/", 1)
    if has_schema and weights:
        raise UserError("--weights", f"open_clip ignores it for {model_name!r}", "", "use open_clip:local-dir:FOLDER")
    if not has_schema:
        _check_open_clip_names(open_clip, model_name, tag, weights)
    with quiet_logging(), nullcontext() if weights or folder else offline_unless_reachable():
        try:
            model = _load_text_tower(open_clip, model_name, tag, weights)
            tokenizer = open_clip.get_tokenizer(model_name)
        except UserError:
            raise
        except Exception as error:  # open_clip raises RuntimeError, OSError and others for network, cache and shapes
            raise not_loadable(f"open_clip:{model_and_tag}", weights or folder, error) from None
    model = model.to(device)
    batches = []
    with torch.inference_mode():
        for start in range(0, len(flat), BATCH_SIZE):
            tokens = tokenizer(flat[start : start + BATCH_SIZE])  # cuts what exceeds the model's context length
            batches.append(model.encode_text(tokens.to(device)).float().cpu().numpy())
    return np.concatenate(batches), versions("open_clip_torch")


def _check_open_clip_names(open_clip: ModuleType, model_name: str, tag: str, weights: Path | str | None) -> None:
    models = open_clip.list_models()
    if model_name not in models:
        near = get_close_matches(model_name, models, n=3, cutoff=0.5)
        raise UserError(
            "--encoder",
            f"open_clip has no model {model_name!r}",
            f"a model of open_clip.list_models(){', such as ' + ', '.join(near) if near else ''}",
        )
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    if not weights and tag not in tags:
        raise UserError(
            "--encoder",
            f"open_clip has no weights {tag!r} for {model_name}.{suggestion(tag, tags)}",
            f"one of {', '.join(tags)}" if tags else "a model with published weights",
            "correct the tag, or give a local file with --weights",
        )


def _load_text_tower(open_clip: ModuleType, model_name: str, tag: str | None, weights: Path | str | None):
    """open_clip's model in evaluation mode, without its image tower."""
    # OpenAI's weights want QuickGELU; open_clip only warns when the model's configuration says otherwise
    quick_gelu = bool((open_clip.get_pretrained_cfg(model_name, tag) or {}).get("quick_gelu")) if tag else False
    with TemporaryDirectory() as scratch:
        model = open_clip.create_model(
            model_name,
            pretrained=str(_as_state_dict(Path(weights).resolve(), Path(scratch))) if weights else tag,
            force_quick_gelu=quick_gelu,
            device="cpu",
            require_pretrained=True,
        )
    model.visual = None
    return model.eval().requires_grad_(False)


def _as_state_dict(weights: Path, scratch: Path) -> Path:
    """`weights`, or a state dict made from it: OpenAI publishes its files as TorchScript archives."""
    if not zipfile.is_zipfile(weights):
        return weights
    with zipfile.ZipFile(weights) as archive:
        is_torch_script = any(name.endswith("/constants.pkl") for name in archive.namelist())
    if not is_torch_script:
        return weights
    import torch

    state = torch.jit.load(str(weights), map_location="cpu").state_dict()
    no_weights = ("input_resolution", "context_length", "vocab_size")
    path = scratch / "state_dict.pt"
    torch.save({name: value.float() for name, value in state.items() if name not in no_weights}, path)
    return path
