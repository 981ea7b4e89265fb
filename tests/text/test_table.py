"""The text table: it travels unchanged, says what is wrong, and cannot be swapped or edited unnoticed."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from nnunetv2_clip.errors import UserError
from nnunetv2_clip.text.table import FILE_NAME, TextTable, table_path

VECTORS = np.array([[3, 4], [0, 2], [-1, 0]], dtype=np.float32)  # lengths 5, 2, 1
UNIT = np.array([[0.6, 0.8], [0, 1], [-1, 0]], dtype=np.float32)


def small_table(**changes) -> TextTable:
    names = ["liver", "liver_tumor", "bladder"]
    arguments = {"class_names": names, "prompts": [[f"A {name}."] for name in names], "encoder": "file:x.npy"}
    return TextTable.of(**{**arguments, "library": "numpy", "vectors": VECTORS, **changes})


def rewrite(path, **arrays) -> None:
    """Change arrays in a saved table, as somebody with an editor would."""
    with np.load(path) as content:
        arrays = {**dict(content), **arrays}
    np.savez(path, **arrays)


def test_vectors_are_stored_with_length_one():
    np.testing.assert_allclose(small_table().vectors, UNIT, atol=1e-7)


def test_a_table_travels_unchanged(tmp_path):
    table = small_table(weights="clip.bin sha256:0")
    table.save(tmp_path / "made" / FILE_NAME)
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copy(tmp_path / "made" / FILE_NAME, tmp_path / "elsewhere" / "renamed.npz")
    loaded = TextTable.load(copy)
    np.testing.assert_array_equal(loaded.vectors, table.vectors)
    assert loaded.provenance == table.provenance
    assert loaded.provenance["prompts"] == [["A liver."], ["A liver_tumor."], ["A bladder."]]
    assert os.listdir(tmp_path / "made") == [FILE_NAME], "nothing is left beside the table"


def test_rows_come_in_the_order_that_is_asked_for():
    np.testing.assert_allclose(small_table().rows_for(["bladder", "liver"]), UNIT[[2, 0]], atol=1e-7)


def test_a_missing_class_is_named_with_the_nearest_that_is_there():
    with pytest.raises(UserError, match="lacks 1 of 2 classes: liver_tumour. Did you mean 'liver_tumor'"):
        small_table().rows_for(["liver", "liver_tumour"])


def test_another_width_than_the_models_is_refused_with_both_numbers():
    with pytest.raises(UserError, match="width 2.*width 512"):
        small_table().rows_for(["liver"], width=512)
    assert small_table().rows_for(["liver"], width=2).shape == (1, 2)


def test_the_hash_changes_with_a_vector_a_name_and_the_order_alone():
    table = small_table()
    moved = VECTORS.copy()
    moved[2, 1] = 1e-4
    others = [
        small_table(vectors=moved),
        small_table(class_names=["liver", "liver_tumor", "rectum"]),
        small_table(class_names=["liver_tumor", "liver", "bladder"], vectors=VECTORS[[1, 0, 2]]),
    ]
    assert len({table.sha256, *(other.sha256 for other in others)}) == 4
    assert replace(table, where="elsewhere.npz", library="other").sha256 == table.sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": np.where(UNIT == 0.6, np.nan, UNIT)}, "'liver' holds values that are not finite"),
        ({"vectors": UNIT * np.array([[1], [0], [1]], dtype=np.float32)}, "'liver_tumor' is all zeros"),
        ({"vectors": UNIT[:2]}, r"shape \(2, 2\).*\(3 classes, width\)"),
        ({"vectors": UNIT[[1, 0, 2]]}, "damaged or was edited"),
        ({"metadata": np.array("{}")}, "schema_version is None"),
        ({"metadata": np.array("no json")}, "cannot be read as a text table"),
        ({"metadata": np.array({"pickled": 1}, dtype=object)}, "cannot be read as a text table"),
    ],
)
def test_a_table_that_somebody_changed_is_refused(tmp_path, change, message):
    path = tmp_path / FILE_NAME
    small_table().save(path)
    rewrite(path, **change)
    with pytest.raises(UserError, match=message) as caught:
        TextTable.load(path)
    assert str(path) in str(caught.value)


def test_a_name_changed_in_the_metadata_is_found_by_the_hash(tmp_path):
    path = tmp_path / FILE_NAME
    small_table().save(path)
    with np.load(path) as content:
        metadata = json.loads(str(content["metadata"]))
    metadata["class_names"][2] = "rectum"
    rewrite(path, metadata=np.array(json.dumps(metadata)))
    with pytest.raises(UserError, match="damaged or was edited"):
        TextTable.load(path)


@pytest.mark.parametrize("share", [0, 10, 60, 99])
def test_a_truncated_table_is_refused(tmp_path, share):
    path = tmp_path / FILE_NAME
    small_table().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * share // 100])
    with pytest.raises(UserError, match="cannot be read as a text table"):
        TextTable.load(path)


def test_a_missing_table_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match="does not exist.*nnunetv2_clip embed"):
        TextTable.load(tmp_path / FILE_NAME)


def test_a_class_named_twice_is_refused():
    with pytest.raises(UserError, match="classes named twice: liver"):
        small_table(class_names=["liver", "liver", "bladder"])


def test_the_table_of_a_dataset_lies_in_its_preprocessed_folder_even_before_preprocessing(tmp_path, monkeypatch):
    (tmp_path / "raw" / "Dataset900_Universal").mkdir(parents=True)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    assert table_path(900) == tmp_path / "preprocessed" / "Dataset900_Universal" / "text_embeddings.npz"


def test_tables_and_prompts_need_neither_torch_nor_open_clip():
    code = (
        "import sys, nnunetv2_clip.classes, nnunetv2_clip.text.prompts, nnunetv2_clip.text.similarity\n"
        "from nnunetv2_clip.text.encode import SHIPPED_MINILM, encode\n"
        "from nnunetv2_clip.text.table import TextTable\n"
        "TextTable.load(SHIPPED_MINILM); encode('minilm', nnunetv2_clip.classes.UNIVERSAL.rows[:3])\n"
        "heavy = {'torch', 'open_clip', 'transformers', 'sentence_transformers', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
