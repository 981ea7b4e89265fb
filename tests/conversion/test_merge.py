"""The merge: right voxels, right presence, nothing half written, nothing of others touched."""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, fields, replace

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.conversion.merge import Input, Merge, run_merge
from nnunetv2_clip.conversion.target import Target
from nnunetv2_clip.dataset_conversion.msd import MsdSource
from nnunetv2_clip.dataset_conversion.registry import find_source
from nnunetv2_clip.imaging.nifti import inspect
from nnunetv2_clip.labels import ClassMap, static_class_sets
from nnunetv2_clip.manifest import Manifest


def label_map(nnunet, case_id):
    return np.asanyarray(nib.load(nnunet.raw / "labelsTr" / f"{case_id}.nii.gz").dataobj)


def regions(nnunet):
    return json.loads((nnunet.raw / "dataset.json").read_text())["labels"]


def classes_at(nnunet, case_id, voxel):
    value = label_map(nnunet, case_id)[voxel]
    return {name for name, values in regions(nnunet).items() if isinstance(values, list) and value in values}


def tree(*folders):
    """Relative path -> bytes, or the target of a link."""
    return {
        str(path.relative_to(folder.parent)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_overlaps_survive_and_unannotated_organs_stay_unknown(msd, nnunet, convert):
    liver, lung = msd("msd_liver", 1, 0, 1, 2), msd("msd_lung", 1, 0, 1, first_seed=10)
    assert convert("--source", f"msd_liver={liver}", "--source", f"msd_lung={lung}")[0] == 0
    assert classes_at(nnunet, "msd_liver_0", (0, 0, 0)) == set()
    assert classes_at(nnunet, "msd_liver_0", (1, 0, 0)) == {"liver"}
    assert classes_at(nnunet, "msd_liver_0", (2, 0, 0)) == {"liver", "liver_tumor"}
    assert classes_at(nnunet, "msd_lung_0", (1, 0, 0)) == {"lung_tumor"}
    manifest = Manifest.load(nnunet.preprocessed / "label_presence.json")
    assert manifest.case("msd_liver_0").annotated == ("liver", "liver_tumor")
    assert manifest.case("msd_lung_0").annotated == ("lung_tumor",)


def test_label_lies_on_the_grid_of_the_linked_image(msd, nnunet, convert):
    convert("--source", f"msd_spleen={msd('msd_spleen', 2, 1)}")
    for number in range(2):
        image = nnunet.raw / "imagesTr" / f"msd_spleen_{number}_0000.nii.gz"
        assert image.is_symlink()
        label = nnunet.raw / "labelsTr" / f"msd_spleen_{number}.nii.gz"
        assert inspect(image).difference(inspect(label)) == ""
        assert label_map(nnunet, f"msd_spleen_{number}").dtype == np.uint8


def test_copy_leaves_no_link(msd, nnunet, convert):
    root = msd("msd_spleen", 1, 1)
    convert("--source", f"msd_spleen={root}", "--copy")
    image = nnunet.raw / "imagesTr" / "msd_spleen_0_0000.nii.gz"
    assert not image.is_symlink()
    assert image.read_bytes() == (root / "imagesTr" / "spleen_0.nii.gz").read_bytes()


def test_test_images_and_junk_are_no_cases(msd, nnunet, convert):
    convert("--source", f"msd_spleen={msd('msd_spleen', 2, 1)}")
    assert sorted(path.name for path in (nnunet.raw / "labelsTr").iterdir()) == [
        "msd_spleen_0.nii.gz",
        "msd_spleen_1.nii.gz",
    ]


def test_dataset_json_declares_every_class_in_painting_order(msd, nnunet, convert):
    convert("--source", f"msd_liver={msd('msd_liver', 2, 1, 2)}")
    content = json.loads((nnunet.raw / "dataset.json").read_text())
    names = list(content["labels"])
    assert names[0] == "background"
    assert set(names[1:]) == set(UNIVERSAL.names)
    assert names.index("liver") < names.index("liver_tumor")
    assert content["regions_class_order"] == [UNIVERSAL.find(name).index for name in names[1:]]
    assert content["overwrite_image_reader_writer"] == "NibabelIOWithReorient"
    assert content["numTraining"] == 2
    values = sorted({value for name in names[1:] for value in content["labels"][name]})
    assert values == list(range(1, len(values) + 1))  # nnU-Net's integrity check


def test_equal_scans_share_a_group_and_a_side(msd, nnunet, convert):
    liver = msd("msd_liver", 3, 1)
    spleen = msd("msd_spleen", 3, 1)  # the same seeds: the same scans
    convert("--source", f"msd_liver={liver}", "--source", f"msd_spleen={spleen}", "--keep-copies")
    cases = Manifest.load(nnunet.raw / "label_presence.json").cases
    assert len({case.group for case in cases.values()}) == 3
    assert cases["msd_liver_1"].group == cases["msd_spleen_1"].group
    for fold in json.loads((nnunet.preprocessed / "splits_final.json").read_text()):
        for side in ("train", "val"):
            assert {name[-1] for name in fold[side] if "liver" in name} == {
                name[-1] for name in fold[side] if "spleen" in name
            }


def test_source_files_and_checksums_are_recorded(msd, nnunet, convert):
    root = msd("msd_spleen", 2, 1)
    convert("--source", f"msd_spleen={root}")
    case = Manifest.load(nnunet.raw / "label_presence.json").case("msd_spleen_1")
    label = root / "labelsTr" / "spleen_1.nii.gz"
    assert case.source_files["label"] == str(label)
    assert case.checksums["label"] == hashlib.sha256(label.read_bytes()).hexdigest()


def test_second_run_changes_nothing(msd, nnunet, convert):
    arguments = ("--source", f"msd_spleen={msd('msd_spleen', 3, 1)}")
    convert(*arguments)
    before = tree(nnunet.raw, nnunet.preprocessed)
    times = {path: path.lstat().st_mtime_ns for path in nnunet.raw.glob("*Tr/*")}
    assert convert(*arguments)[0] == 0
    assert tree(nnunet.raw, nnunet.preprocessed) == before
    assert {path: path.lstat().st_mtime_ns for path in nnunet.raw.glob("*Tr/*")} == times


def test_workers_give_the_same_files(msd, nnunet, convert, monkeypatch, tmp_path):
    root = msd("msd_liver", 3, 1, 2)
    convert("--source", f"msd_liver={root}")
    one = tree(nnunet.raw)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "other"))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "other_preprocessed"))
    assert convert("--source", f"msd_liver={root}", "-np", "2")[0] == 0
    assert tree(tmp_path / "other" / "Dataset900_Universal") == one


@dataclass(frozen=True)
class OverlappingMasks(MsdSource):
    """A source of which only the data tell which classes overlap: value 2 is another pair of classes in each case."""

    def load_case(self, case):
        loaded = super().load_case(case)
        pair = ("spleen", "aorta") if case.case_id.endswith("0") else ("stomach", "pancreas")
        return replace(loaded, labels=ClassMap(loaded.labels.values, {1: ("liver",), 2: pair}))


def test_sets_found_while_reading_get_one_value_each(msd, nnunet):
    root = msd("msd_liver", 2, 1, 2)
    liver = find_source("msd_liver")
    facts = {field.name: getattr(liver, field.name) for field in fields(liver)}
    source = OverlappingMasks(**{**facts, "annotated": ("liver", "spleen", "aorta", "stomach", "pancreas")})
    run_merge(Merge((Input(source, root),), Target(nnunet.raw, nnunet.preprocessed), UNIVERSAL))
    assert classes_at(nnunet, "msd_liver_0", (0, 0, 0)) == {"liver"}
    assert classes_at(nnunet, "msd_liver_0", (1, 0, 0)) == {"spleen", "aorta"}
    assert classes_at(nnunet, "msd_liver_1", (1, 0, 0)) == {"stomach", "pancreas"}
    static = len(static_class_sets())
    assert {label_map(nnunet, f"msd_liver_{number}")[1, 0, 0] for number in range(2)} == {static + 1, static + 2}


class Killed(BaseException):
    """Not an Exception, so that no handler of the program sees it: as close to kill -9 as one process gets."""


class DieAtWrite:
    """os.replace, by which every file becomes visible, that dies instead of doing its n-th rename."""

    def __init__(self, number):
        self.left, self.replace = number, os.replace

    def __call__(self, source, destination):
        if self.left == 0:
            raise Killed
        self.left -= 1
        self.replace(source, destination)


def test_restart_after_a_kill_at_any_write_gives_identical_files(folder, nnunet, convert, monkeypatch):
    folder.image("images/a.nii", 1)
    folder.label("labels/a.nii.gz", 1, 2, 9)
    folder.image("images/b.nii", 2)
    folder.label("labels/b.nii.gz", 1, 3)
    folder.image("images/c.nii", 1)  # the same scan as a
    folder.label("labels/c.nii.gz", 1, 1)
    table = folder.path / "table.yaml"
    table.write_text(
        "name: mine\nimages: images/{case}.nii\nlabels: labels/{case}.nii.gz\n"
        "values: {1: liver, 2: [stomach, spleen], 3: [aorta, postcava], 9: ignore}\n"
    )
    arguments = ("--source", f"custom={table}")
    assert convert(*arguments)[0] == 0
    expected = tree(nnunet.raw, nnunet.preprocessed)
    for num_kills in range(100):
        shutil.rmtree(nnunet.raw)
        shutil.rmtree(nnunet.preprocessed)
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", DieAtWrite(num_kills))
            patched.setattr(os, "getpid", lambda: 4194300)  # another process than the one that goes on
            try:
                convert(*arguments)
                break
            except Killed:
                assert not (nnunet.raw / "dataset.json").exists()
        assert convert(*arguments)[0] == 0
        assert tree(nnunet.raw, nnunet.preprocessed) == expected, f"killed at write {num_kills}"
    # plan, 3 x (label, image, fingerprint, record); label and image of the copy set aside, comparison, union (label,
    # record), final label; 2 x (manifest, splits), report, dataset.json
    assert num_kills == 1 + 12 + 6 + 6


def test_replaced_source_file_is_converted_again(msd, folder, nnunet, convert):
    root = msd("msd_liver", 2, 1)
    convert("--source", f"msd_liver={root}")
    folder.label("Task03_Liver/labelsTr/liver_1.nii.gz", 2, 2, 2)
    convert("--source", f"msd_liver={root}")
    assert classes_at(nnunet, "msd_liver_1", (2, 0, 0)) == {"liver", "liver_tumor"}


def empty(path):
    path.unlink()  # a link must not be written through
    path.write_bytes(b"")


def cut_off(path):
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def dangling(path):
    path.unlink()
    path.symlink_to(path.with_name("nowhere.nii.gz"))


IMAGE, LABEL = "imagesTr/msd_liver_1_0000.nii.gz", "labelsTr/msd_liver_1.nii.gz"
RECORD, FINGERPRINT = ".conversion/cases/msd_liver_1.json", ".conversion/fingerprints/msd_liver_1.npy"


@pytest.mark.parametrize(
    ("damage", "name"),
    [(empty, name) for name in (IMAGE, LABEL, RECORD, FINGERPRINT)]
    + [(cut_off, name) for name in (IMAGE, LABEL, RECORD, FINGERPRINT)]
    + [(dangling, name) for name in (IMAGE, LABEL)],
)
def test_a_case_with_a_broken_file_is_not_done_and_made_again(msd, nnunet, convert, monkeypatch, damage, name):
    from nnunetv2_clip.conversion import case as conversion

    root = msd("msd_liver", 3, 1, 2)
    convert("--source", f"msd_liver={root}")
    before = tree(nnunet.raw, nnunet.preprocessed)
    damage(nnunet.raw / name)
    converted, real = [], conversion.load_case
    monkeypatch.setattr(
        conversion, "load_case", lambda source, case, *more: converted.append(case.case_id) or real(source, case, *more)
    )
    assert convert("--source", f"msd_liver={root}")[0] == 0
    assert converted == ["msd_liver_1"]
    assert tree(nnunet.raw, nnunet.preprocessed) == before


def test_an_empty_plan_of_a_folder_without_cases_is_no_plan(msd, nnunet, convert):
    root = msd("msd_liver", 1, 1)
    plan = nnunet.raw / ".conversion" / "plan.json"
    plan.parent.mkdir(parents=True)
    plan.write_bytes(b"")
    assert convert("--source", f"msd_liver={root}")[0] == 0
    plan.write_bytes(b"")
    code, message = convert("--source", f"msd_liver={root}")
    assert code == 2 and "is in use" in message


def test_id_of_a_trained_model_is_refused(msd, nnunet, convert, tmp_path):
    (tmp_path / "nnUNet_results" / "Dataset900_Other").mkdir(parents=True)
    code, message = convert("--source", f"msd_spleen={msd('msd_spleen', 1, 1)}")
    assert code == 2
    assert "Dataset900_Other: has the same dataset id" in message


def test_foreign_target_is_refused_and_left_alone(msd, nnunet, convert):
    (nnunet.raw / "imagesTr").mkdir(parents=True)
    (nnunet.raw / "dataset.json").write_text("{}")
    before = tree(nnunet.raw)
    code, message = convert("--source", f"msd_spleen={msd('msd_spleen', 1, 1)}")
    assert code == 2
    assert "Dataset900_Universal: is in use" in message
    assert tree(nnunet.raw) == before
    assert not nnunet.preprocessed.exists()


def test_foreign_preprocessed_folder_is_refused(msd, nnunet, convert):
    nnunet.preprocessed.mkdir(parents=True)
    (nnunet.preprocessed / "nnUNetPlans.json").write_text("{}")
    code, message = convert("--source", f"msd_spleen={msd('msd_spleen', 1, 1)}")
    assert code == 2
    assert "holds another dataset" in message


def test_used_dataset_id_is_refused(msd, nnunet, convert):
    nnunet.raw.with_name("Dataset900_Other").mkdir(parents=True)
    code, message = convert("--source", f"msd_spleen={msd('msd_spleen', 1, 1)}")
    assert code == 2
    assert "Dataset900_Other: has the same dataset id" in message


def test_other_sources_do_not_mix_into_a_begun_target(msd, nnunet, convert):
    convert("--source", f"msd_spleen={msd('msd_spleen', 1, 1)}")
    before = tree(nnunet.raw)
    code, message = convert("--source", f"msd_liver={msd('msd_liver', 1, 1)}")
    assert code == 2
    assert "was begun with other sources" in message
    assert tree(nnunet.raw) == before


def test_lost_source_case_is_reported(msd, nnunet, convert):
    root = msd("msd_spleen", 2, 1)
    convert("--source", f"msd_spleen={root}")
    for part in ("imagesTr", "labelsTr"):
        (root / part / "spleen_1.nii.gz").unlink()
    code, message = convert("--source", f"msd_spleen={root}")
    assert code == 2
    assert "msd_spleen_1" in message


@pytest.mark.slow
def test_integrity_check_of_nnunet_accepts_ignore_label_and_new_sets(folder, nnunet, convert):
    """`nnUNetv2_plan_and_preprocess --verify_dataset_integrity` calls this function; it starts a worker process."""
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    for number in range(2):
        folder.image(f"images/{number}.nii.gz", number)
        folder.label(f"labels/{number}.nii.gz", 1, 2, 9)
    table = folder.path / "table.yaml"
    table.write_text(
        "name: mine\nimages: images/{case}.nii.gz\nlabels: labels/{case}.nii.gz\n"
        "values: {1: liver, 2: [stomach, spleen], 9: ignore}\n"
    )
    assert convert("--source", f"custom={table}")[0] == 0
    verify_dataset_integrity(str(nnunet.raw), num_processes=1)


def test_nnunet_reads_the_merge(msd, nnunet, convert):
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    convert("--source", f"msd_spleen={msd('msd_spleen', 2, 1)}")
    content = json.loads((nnunet.raw / "dataset.json").read_text())
    manager = LabelManager(content["labels"], content["regions_class_order"])
    assert manager.has_regions
    assert manager.num_segmentation_heads == 32
    assert np.all(np.ediff1d(manager.all_labels) == 1)


@pytest.mark.parametrize("image_suffix", [".nii", ".nii.gz"])
def test_image_in_a_form_that_nnunet_cannot_link_is_written_anew(folder, nnunet, convert, image_suffix):
    folder.save(f"ct{image_suffix}", np.random.default_rng(0).integers(0, 9, (8, 9, 10, 1)).astype(np.int16))
    folder.label("label.nii.gz", 1)
    table = folder.path / "table.yaml"
    table.write_text(f"name: one\nimages: ct{image_suffix}\nlabels: label.nii.gz\nvalues: {{1: liver}}\n")
    assert convert("--source", f"custom={table}")[0] == 0
    image = nib.load(nnunet.raw / "imagesTr" / "one_0000.nii.gz")
    assert image.shape == (8, 9, 10)
    assert not (nnunet.raw / "splits_final.json").exists()  # one scan
