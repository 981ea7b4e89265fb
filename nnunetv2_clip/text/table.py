"""The text table: the embeddings of a list of classes and where they come from, as one file that travels."""

# Shapes: K classes, E width of the text embedding.

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nnunetv2_clip import __version__
from nnunetv2_clip.errors import UserError, suggestion
from nnunetv2_clip.files import replacing
from nnunetv2_clip.paths import dataset_name, nnunet_folder

SCHEMA_VERSION = 1
FILE_NAME = "text_embeddings.npz"
REMAKE = "make the table again with 'nnunetv2_clip embed'"


@dataclass(frozen=True, eq=False)
class TextTable:
    """Text embeddings w_k of K classes, L2-normalised, with their provenance. Make one with `TextTable.of`.

    Attributes:
        class_names: (K,) names as in the taxonomy.
        prompts: (K,) the sentences of each class; empty for encoders that read none (onehot, random, file).
        encoder: what made the vectors, such as "open_clip:ViT-B-32/openai".
        library: package and version that ran the encoder.
        weights: file name and SHA-256 of a weights or tensor file given by hand, or an empty string.
        vectors: (K, E) float32, each row of length 1.
        where: the file, for messages.
    """

    class_names: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    encoder: str
    library: str
    vectors: np.ndarray
    weights: str = ""
    where: str = field(default=FILE_NAME, compare=False)

    @classmethod
    def of(
        cls,
        class_names: Sequence[str],
        prompts: Sequence[Sequence[str]],
        encoder: str,
        library: str,
        vectors: np.ndarray,
        weights: str = "",
    ) -> TextTable:
        """A table from vectors of any length; checks and normalises them.

        Raises:
            UserError: the vectors are not (K, E), not finite, or hold a row of zeros.
        """
        names = tuple(class_names)
        vectors = np.asarray(vectors, dtype=np.float32)
        _check_vectors(vectors, names, encoder, "correct the matrix" if encoder.startswith("file") else REMAKE)
        exact = vectors.astype(np.float64)  # so that normalising a normalised row hardly moves it
        unit = (exact / np.linalg.norm(exact, axis=1, keepdims=True)).astype(np.float32)
        return cls(names, tuple(tuple(each) for each in prompts), encoder, library, unit, weights)

    @property
    def width(self) -> int:
        """E, the length of each vector."""
        return self.vectors.shape[1]

    @property
    def sha256(self) -> str:
        """The hash of names and vectors: two tables with the same hash train and predict the same."""
        return text_hash(self.class_names, self.vectors)

    @property
    def provenance(self) -> dict:
        """All but the vectors, as JSON."""
        return {
            "class_names": list(self.class_names),
            "prompts": [list(each) for each in self.prompts],
            "encoder": self.encoder,
            "library": self.library,
            "weights": self.weights,
            "sha256": self.sha256,
        }

    def rows_for(self, class_names: Iterable[str], width: int | None = None) -> np.ndarray:
        """(len(class_names), E) float32: the vectors of these classes, in this order.

        Args:
            width: the E that a model expects, if it expects one.

        Raises:
            UserError: a class is not in the table, or the table has another width.
        """
        names = list(class_names)
        position = {name: k for k, name in enumerate(self.class_names)}
        missing = [name for name in names if name not in position]
        if missing:
            raise UserError(
                self.where,
                f"the text table lacks {len(missing)} of {len(names)} classes: {', '.join(missing)}."
                f"{suggestion(missing[0], self.class_names)}",
                f"a vector for each class; the table has {', '.join(self.class_names)}",
                "make the table for this dataset with 'nnunetv2_clip embed -d DATASET --overwrite'",
            )
        if width is not None and width != self.width:
            found = f"the vectors of {self.encoder!r} have width {self.width}"
            remedy = "use the table with which the model was made, or train a new model with this one"
            raise UserError(self.where, found, f"width {width}, with which the model was made", remedy)
        return self.vectors[[position[name] for name in names]]

    def restricted(self, class_names: Iterable[str]) -> TextTable:
        """The table of these classes alone, in this order, with the same provenance.

        Raises:
            UserError: a class is not in the table.
        """
        names = tuple(class_names)
        vectors = self.rows_for(names)
        prompts = tuple(self.prompts[self.class_names.index(name)] for name in names)
        return replace(self, class_names=names, prompts=prompts, vectors=vectors)

    def save(self, path: Path | str) -> None:
        """Write the file; a reader never sees half a table."""
        metadata = {"schema_version": SCHEMA_VERSION, "created_by": f"nnunetv2_clip {__version__}", **self.provenance}
        with replacing(path) as beside, open(beside, "wb") as file:
            np.savez(file, vectors=self.vectors, metadata=np.array(json.dumps(metadata)))

    @classmethod
    def load(cls, path: Path | str) -> TextTable:
        """Read and check a table.

        Raises:
            UserError: not there, no text table, another schema, damaged, or edited (the hash does not fit).
        """
        metadata, vectors = _read(path)
        if not isinstance(metadata, dict) or metadata.get("schema_version") != SCHEMA_VERSION:
            found = metadata.get("schema_version") if isinstance(metadata, dict) else metadata
            raise UserError(path, f"schema_version is {found!r}", f"{SCHEMA_VERSION}", REMAKE)
        try:
            names, prompts = tuple(metadata["class_names"]), tuple(tuple(each) for each in metadata["prompts"])
            encoder, library, sha256 = metadata["encoder"], metadata["library"], metadata["sha256"]
        except (KeyError, TypeError) as error:
            raise UserError(path, f"the metadata lack {error}", "a text table", REMAKE) from None
        _check_vectors(vectors, names, path)
        table = cls(names, prompts, encoder, library, vectors, metadata.get("weights", ""), str(path))
        if table.sha256 != sha256 or len(prompts) != len(names):
            expected = f"{sha256[:12]}, which the file states; it is damaged or was edited"
            raise UserError(path, f"names and vectors have the hash {table.sha256[:12]}", expected, REMAKE)
        return table


def text_hash(class_names: Sequence[str], vectors: np.ndarray) -> str:
    """SHA-256 over the names and the (K, E) vectors of K classes."""
    digest = hashlib.sha256(json.dumps([list(class_names), list(vectors.shape)]).encode())
    digest.update(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
    return digest.hexdigest()


def table_path(dataset: str | int) -> Path:
    """Where the table of a dataset lies: in its folder below nnUNet_preprocessed, which need not exist yet.

    Raises:
        UserError: nnUNet_preprocessed is not set, or there is no such dataset.
    """
    return nnunet_folder("nnUNet_preprocessed") / dataset_name(dataset) / FILE_NAME


def _read(path: Path | str) -> tuple[object, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as content:
            return json.loads(str(content["metadata"][()])), content["vectors"]
    except FileNotFoundError:
        raise UserError(path, "does not exist", "a text table", "make it with 'nnunetv2_clip embed'") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(path, f"cannot be read as a text table ({error})", "an .npz of embed", REMAKE) from None


def _check_vectors(vectors: np.ndarray, names: Sequence[str], where: object, remedy: str = REMAKE) -> None:
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise UserError(where, f"classes named twice: {', '.join(twice)}", "each class once", remedy)
    if vectors.ndim != 2 or vectors.shape[0] != len(names) or not vectors.size or vectors.dtype != np.float32:
        found = f"the vectors are {vectors.dtype} of shape {vectors.shape}"
        raise UserError(where, found, f"float32 of shape ({len(names)} classes, width)", remedy)
    for usable, problem, expected in (
        (np.isfinite(vectors).all(axis=1), "holds values that are not finite", "numbers"),
        (vectors.any(axis=1), "is all zeros", "a vector with a direction"),
    ):
        if not usable.all():
            raise UserError(where, f"the vector of {names[int(np.argmin(usable))]!r} {problem}", expected, remedy)
