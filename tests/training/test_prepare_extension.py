"""Preparing an extension: what must agree between model and dataset, and what is written."""

import json

import numpy as np
import pytest
import torch

from nnunetv2_clip import cli
from nnunetv2_clip.classes import UNIVERSAL, Taxonomy
from nnunetv2_clip.files import read_json, write_json
from nnunetv2_clip.labels import LabelTable, nnunet_labels
from nnunetv2_clip.manifest import CasePresence, Manifest
from nnunetv2_clip.text.encode import encode
from nnunetv2_clip.text.table import TextTable, text_hash
from tests.inference.conftest import make_plans, random_network

CLASSES = ("liver", "spleen", "liver_tumor")  # in painting order
UNTRAINED = "liver_tumor"
SACRUM = {"index": 33, "name": "sacrum"}
NAME = "nnUNetPlans_extended"


def taxonomy_with(*rows):
    return Taxonomy.from_json([*UNIVERSAL.to_json(), *rows], "test")


def write_old_model(folder, encoder="random:1", taxonomy=UNIVERSAL, classes=CLASSES):
    """A model folder as training leaves it; the embeddings are of width 512."""
    text = encode(encoder, [taxonomy.find(name) for name in classes])
    plans = make_plans(classes)
    plans["nnunetv2_clip"] = {
        "classes": [row for row in taxonomy.to_json() if row["name"] in classes],
        "text": text.provenance,
        "datasets": {"old": {"cases": 2, "supervised": {"spleen": 2, "liver": 2}}},
        "postprocessing": {"rules": {"liver": {"largest_components": 1}}},
    }
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    architecture["arch_kwargs"]["text_width"] = text.width
    folder = folder / "CLIPUniversalTrainer__nnUNetPlans__3d_fullres"
    labels, order = nnunet_labels(LabelTable.of(), taxonomy, classes, ignore=False)
    dataset_json = {"channel_names": {"0": "CT"}, "labels": labels, "regions_class_order": order}
    write_json(folder / "plans.json", plans)
    write_json(folder / "dataset.json", dataset_json)
    (folder / "fold_0").mkdir()
    network = random_network(architecture, classes, (UNTRAINED,), seed=0, text_width=text.width)
    network.class_embedding.vectors.copy_(torch.from_numpy(text.vectors))
    torch.save({"network_weights": network.state_dict()}, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def write_dataset(taxonomy, cases, channels=1, classes=None):
    import os
    from pathlib import Path

    folder = Path(os.environ["nnUNet_raw"]) / "Dataset902_New"
    classes = classes or (*CLASSES, *(row.name for row in taxonomy if row.index > 32))
    labels, order = nnunet_labels(LabelTable.of([(name,) for name in classes]), taxonomy, classes, ignore=False)
    content = {
        "channel_names": {str(n): "CT" for n in range(channels)},
        "labels": labels,
        "regions_class_order": order,
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    write_json(folder / "dataset.json", content)
    Manifest(taxonomy, cases).save(folder / "label_presence.json")


CASES = {"a": CasePresence("new", ("sacrum", "spleen"))}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setenv(name, str(tmp_path / name))
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def model(folders):
    return write_old_model(folders)


def extend(model, *options):
    return cli.main(["extend", "-m", str(model), "-d", "902", *map(str, options)])


def preprocessed(folders):
    return folders / "nnUNet_preprocessed" / "Dataset902_New"


def test_frozen_writes_plans_text_and_weights_and_says_what_comes_next(model, folders, capsys):
    write_dataset(taxonomy_with(SACRUM), CASES)
    assert extend(model) == 0
    plans = read_json(preprocessed(folders) / f"{NAME}.json", "")
    old = read_json(model / "plans.json", "")
    settings, before = plans["configurations"]["3d_fullres"], old["configurations"]["3d_fullres"]
    assert list(plans["configurations"]) == ["3d_fullres"]
    for key in ("patch_size", "spacing", "normalization_schemes", "batch_size"):
        assert settings[key] == before[key]
    assert settings["architecture"]["network_class_name"].endswith("PlainConvUNet")
    assert not set(settings["architecture"]["arch_kwargs"]) & {"class_names", "text_width", "backbone_class"}
    assert settings["data_identifier"] == f"{NAME}_3d_fullres"
    assert plans["dataset_name"] == "Dataset902_New"
    assert plans["image_reader_writer"] == "SimpleITKIO"
    intensities = "foreground_intensity_properties_per_channel"
    assert plans[intensities] == old[intensities]
    ours = plans["nnunetv2_clip"]
    assert ours["postprocessing"] == old["nnunetv2_clip"]["postprocessing"]
    assert ours["extension"]["known"] == ["liver", "spleen"]
    assert ours["extension"]["parts"] == [["sacrum"]]
    assert str(folders) not in json.dumps(plans)
    assert (preprocessed(folders) / "dataset.json").is_file()
    assert (preprocessed(folders) / "label_presence.json").is_file()

    table = TextTable.load(preprocessed(folders) / f"{NAME}_text_embeddings.npz")
    assert np.array_equal(table.rows_for(CLASSES), encode("random:1", [UNIVERSAL.find(n) for n in CLASSES]).vectors)
    assert "sacrum" in table.class_names

    printed = capsys.readouterr().out
    assert "nnUNetv2_extract_fingerprint -d 902" in printed
    assert f"nnUNetv2_preprocess -d 902 -plans_name {NAME} -c 3d_fullres" in printed
    assert f"nnUNetv2_train 902 3d_fullres 0 -tr CLIPUniversalTrainer -p {NAME}" in printed


def start_of(folders, name=NAME):
    return torch.load(preprocessed(folders) / f"{name}_start.pth", weights_only=True)["network_weights"]


def test_the_start_holds_the_old_weights_and_a_copy_for_the_new_classes(model, folders):
    write_dataset(taxonomy_with(SACRUM), CASES)
    extend(model)
    old = torch.load(model / "fold_0" / "checkpoint_final.pth")["network_weights"]
    start = start_of(folders)
    assert not [key for key in start if ".seg_layers." in key]
    for key, value in start.items():
        assert torch.equal(value, old[key.removeprefix("extensions.0.")])
    assert {key.split(".")[2] for key in start if key.startswith("extensions")} == {"controller", "feature_layers"}


@pytest.mark.parametrize("mode", ["frozen", "transfer"])
def test_licences_of_the_old_model_and_of_its_data_stay_with_the_new_one(model, folders, mode):
    plans, dataset_json = read_json(model / "plans.json", ""), read_json(model / "dataset.json", "")
    plans["nnunetv2_clip"] |= {"licence": "CC BY-NC-ND 4.0", "redistribution": False, "licences": {"older": "CC0"}}
    write_json(model / "plans.json", plans)
    write_json(model / "dataset.json", {**dataset_json, "licence": {"old": "CC BY 4.0"}})
    write_dataset(taxonomy_with(SACRUM), CASES)
    assert extend(model, "--mode", mode, "-overwrite_plans_name", "new") == 0
    ours = read_json(preprocessed(folders) / "new.json", "")["nnunetv2_clip"]
    assert (ours["licence"], ours["redistribution"]) == ("CC BY-NC-ND 4.0", False)
    assert ours["licences"] == {"older": "CC0", "old": "CC BY 4.0"}


def test_a_declared_class_that_was_never_trained_counts_as_new(model, folders):
    write_dataset(UNIVERSAL, {"a": CasePresence("new", ("liver", "liver_tumor"))})
    assert extend(model) == 0
    assert read_json(preprocessed(folders) / f"{NAME}.json", "")["nnunetv2_clip"]["extension"]["parts"] == [
        ["liver_tumor"]
    ]


def test_transfer_takes_any_classes_and_keeps_only_the_weights(model, folders):
    write_dataset(taxonomy_with(SACRUM), {"a": CasePresence("new", ("sacrum",))}, classes=("sacrum",))
    assert extend(model, "--mode", "transfer") == 0
    name = "nnUNetPlans_transferred"
    ours = read_json(preprocessed(folders) / f"{name}.json", "")["nnunetv2_clip"]
    assert ours["extension"]["known"] == ours["extension"]["parts"] == []
    assert "postprocessing" not in ours
    assert not [key for key in start_of(folders, name) if key.startswith("extensions")]


def test_fine_tuning_without_pseudo_labels_names_what_would_be_forgotten(model, folders, capsys):
    write_dataset(taxonomy_with(SACRUM), CASES)
    assert extend(model, "--mode", "fine-tune") == 2
    error = capsys.readouterr().err
    assert "liver" in error
    assert "pseudo-label" in error


def test_fine_tuning_with_pseudo_labels_has_one_part_for_all(model, folders):
    write_dataset(taxonomy_with(SACRUM), {"a": CasePresence("new", ("sacrum", "spleen"), pseudo={"liver": 0.5})})
    assert extend(model, "--mode", "fine-tune") == 0
    ours = read_json(preprocessed(folders) / "nnUNetPlans_finetuned.json", "")["nnunetv2_clip"]
    assert ours["extension"]["parts"] == []
    assert ours["extension"]["known"] == ["liver", "spleen"]


def refused(capsys, model, folders, *options):
    before = sorted(preprocessed(folders).glob("*")) if preprocessed(folders).exists() else []
    assert extend(model, *options) == 2
    assert (sorted(preprocessed(folders).glob("*")) if preprocessed(folders).exists() else []) == before
    return capsys.readouterr().err


def test_a_new_class_with_the_vector_of_an_old_one_is_warned_of(model, folders, capsys):
    write_dataset(taxonomy_with(SACRUM), CASES)
    names = [*CLASSES, "sacrum"]
    old = encode("random:1", [UNIVERSAL.find(name) for name in CLASSES])
    vectors = old.rows_for([*CLASSES, "liver"])
    TextTable.of(names, [()] * 4, old.encoder, old.library, vectors).save(folders / "given.npz")
    assert extend(model, "--text-table", folders / "given.npz") == 0
    assert "liver and sacrum are indistinguishable" in capsys.readouterr().err


def test_no_new_class(model, folders, capsys):
    write_dataset(UNIVERSAL, {"a": CasePresence("new", ("liver",))})
    assert "not learnt" in refused(capsys, model, folders)


def test_a_class_of_the_model_that_the_table_lacks_is_written_out(folders, capsys):
    model = write_old_model(folders, taxonomy=taxonomy_with(SACRUM), classes=(*CLASSES, "sacrum"))
    write_dataset(taxonomy_with({"index": 34, "name": "femur"}), {"a": CasePresence("new", ("femur",))})
    assert "{index: 33, name: sacrum, parents: []}" in refused(capsys, model, folders)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"index": 34, "name": "sacrum"}, "index of class 'sacrum' is 34"),
        ({"index": 33, "name": "sacrum", "parents": ["liver"]}, "parents of class 'sacrum' is ('liver',)"),
        ({"index": 33, "name": "sacrum", "partner": "rectum"}, "partner of class 'sacrum' is 'rectum'"),
    ],
)
def test_a_class_that_has_changed_its_meaning(folders, capsys, row, complaint):
    model = write_old_model(folders, taxonomy=taxonomy_with(SACRUM), classes=(*CLASSES, "sacrum"))
    write_dataset(taxonomy_with(row, {"index": 35, "name": "femur"}), {"a": CasePresence("new", ("femur",))})
    assert complaint in refused(capsys, model, folders)


def test_other_channels(model, folders, capsys):
    write_dataset(taxonomy_with(SACRUM), CASES, channels=2)
    assert "has 2 channels" in refused(capsys, model, folders)


def test_an_encoder_that_cannot_embed_more(folders, capsys):
    model = write_old_model(folders, "onehot")
    write_dataset(taxonomy_with(SACRUM), CASES)
    assert "not seen" in refused(capsys, model, folders)


def test_a_table_of_another_width(model, folders, capsys):
    write_dataset(taxonomy_with(SACRUM), CASES)
    table = folders / "narrow.npz"
    TextTable.of(["sacrum"], [()], "random:1", "", np.ones((1, 7), np.float32)).save(table)
    assert "width 7" in refused(capsys, model, folders, "--text-table", table)


def test_imported_weights_whose_vectors_have_other_lengths(model, folders, capsys):
    path = model / "fold_0" / "checkpoint_final.pth"
    checkpoint, plans = torch.load(path), read_json(model / "plans.json", "")
    vectors = checkpoint["network_weights"]["class_embedding.seg_layers.text_embedding"]
    vectors *= 0.4
    plans["nnunetv2_clip"]["text"]["sha256"] = text_hash(CLASSES, vectors.numpy())
    torch.save(checkpoint, path)
    write_json(model / "plans.json", plans)
    write_dataset(taxonomy_with(SACRUM), CASES)
    assert "not of unit length" in refused(capsys, model, folders)


def test_text_embeddings_that_are_not_those_of_the_plans(model, folders, capsys):
    path = model / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path)
    checkpoint["network_weights"]["class_embedding.seg_layers.text_embedding"][0, 0] += 0.1
    torch.save(checkpoint, path)
    write_dataset(taxonomy_with(SACRUM), CASES)
    assert "hash" in refused(capsys, model, folders)


def test_a_model_that_is_not_universal(model, folders, capsys):
    plans = read_json(model / "plans.json", "")
    plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = (
        "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    )
    write_json(model / "plans.json", plans)
    write_dataset(taxonomy_with(SACRUM), CASES)
    assert "CLIPUniversalTrainer" in refused(capsys, model, folders)


def test_a_missing_fold_and_missing_plans(model, folders, capsys):
    write_dataset(taxonomy_with(SACRUM), CASES)
    assert "folds out of ['0']" in refused(capsys, model, folders, "-f", "3")
    (model / "plans.json").unlink()
    assert "plans.json" in refused(capsys, model, folders)


def test_plans_of_this_name_are_replaced_only_on_demand(model, folders, capsys):
    write_dataset(taxonomy_with(SACRUM), CASES)
    assert extend(model) == 0
    assert "--overwrite" in refused(capsys, model, folders)
    assert extend(model, "--overwrite") == 0


@pytest.mark.parametrize("name", ["dataset", "label_presence", "splits_final", "a/b", "../a", "", "my plans"])
def test_a_name_that_is_another_file_or_no_name_is_refused(model, folders, capsys, name):
    write_dataset(taxonomy_with(SACRUM), CASES)
    option = "-overwrite_plans_name"
    assert option in refused(capsys, model, folders, option, name, "--overwrite")


def test_a_zip_of_the_model_serves_as_well(model, folders):
    import zipfile

    write_dataset(taxonomy_with(SACRUM), CASES)
    with zipfile.ZipFile(folders / "model.zip", "w") as archive:
        for path in model.rglob("*.*"):
            archive.write(path, f"Dataset900_Universal/{model.name}/{path.relative_to(model)}")
    assert extend(folders / "model.zip", "-f", "0") == 0
    entry = read_json(preprocessed(folders) / f"{NAME}.json", "")["nnunetv2_clip"]["extension"]
    assert entry["model"] == f"Dataset900_Universal/{model.name}"
