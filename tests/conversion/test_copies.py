"""The same scan in several sources becomes one case with all labels; scans for testing stay out."""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.cli import main
from nnunetv2_clip.conversion.case import PENDING_UNKNOWN
from nnunetv2_clip.conversion.target import Target
from nnunetv2_clip.conversion.union import Annotation, unite
from nnunetv2_clip.evaluation.leaks import leaked_cases
from nnunetv2_clip.evaluation.results import Evaluation
from nnunetv2_clip.labels import ClassMap, unknown_of
from nnunetv2_clip.manifest import Manifest
from nnunetv2_clip.phantom.anatomy import make_phantom
from tests.conftest import AFFINE, scan

FLIPPED = AFFINE @ np.array([[-1, 0, 0, 7], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])  # first axis stored reversed


def classes_at(nnunet, case_id, voxel):
    labels = json.loads((nnunet.raw / "dataset.json").read_text())["labels"]
    value = np.asanyarray(nib.load(nnunet.raw / "labelsTr" / f"{case_id}.nii.gz").dataobj)[voxel]
    return {name for name, values in labels.items() if isinstance(values, list) and value in values}


def report(nnunet):
    return json.loads((nnunet.raw / "conversion_report.json").read_text())


def sources(msd, liver=(1, 1, 2), spleen=(0, 1, 0, 1)):
    """LiTS-like liver and spleen labels of the same two scans."""
    return (
        "--source",
        f"msd_liver={msd('msd_liver', 2, *liver)}",
        "--source",
        f"msd_spleen={msd('msd_spleen', 2, *spleen)}",
    )


def test_copies_become_one_case_with_the_union_of_annotations(msd, nnunet, convert):
    assert convert(*sources(msd))[0] == 0
    cases = Manifest.load(nnunet.raw / "label_presence.json").cases
    assert sorted(cases) == ["msd_liver_0", "msd_liver_1"]
    assert cases["msd_liver_0"].annotated == ("spleen", "liver", "liver_tumor")
    assert cases["msd_liver_0"].source_files["msd_spleen_0/label"].endswith("spleen_0.nii.gz")
    assert classes_at(nnunet, "msd_liver_0", (0, 0, 0)) == {"liver"}
    assert classes_at(nnunet, "msd_liver_0", (2, 0, 0)) == {"liver", "liver_tumor"}
    assert classes_at(nnunet, "msd_liver_0", (3, 0, 0)) == {"spleen"}
    for folder in ("imagesTr", "labelsTr"):
        assert len(list((nnunet.raw / folder).iterdir())) == 2
    assert report(nnunet)["merged_into"] == {"msd_spleen_0": "msd_liver_0", "msd_spleen_1": "msd_liver_1"}


def test_the_source_named_first_decides_contradictions_and_they_are_reported(folder, nnunet, convert):
    for name, values in (("one", (1, 1, 0)), ("two", (1, 0, 1))):
        folder.image(f"{name}/image.nii.gz", 5)
        folder.label(f"{name}/label.nii.gz", *values)
        table = f"name: {name}\nimages: {name}/image.nii.gz\nlabels: {name}/label.nii.gz\nvalues: {{1: liver}}\n"
        (folder.path / f"{name}.yaml").write_text(table)
    for first, second in (("one", "two"), ("two", "one")):
        arguments = [f"custom={folder.path / name}.yaml" for name in (first, second)]
        dataset = "900" if first == "one" else "901"
        convert("--source", arguments[0], "--source", arguments[1], dataset=dataset)
        raw = nnunet.raw.with_name(f"Dataset{dataset}_Universal")
        case = Manifest.load(raw / "label_presence.json").cases[first]
        assert "contradicting voxels, decided by the source named first: 2 of liver" in case.geometry_fixes[0]
        label = np.asanyarray(nib.load(raw / "labelsTr" / f"{first}.nii.gz").dataobj)
        assert list(label[:3, 0, 0] > 0) == ([True, True, False] if first == "one" else [True, False, True])


def test_of_several_copies_the_one_without_warnings_keeps_its_image(folder, nnunet, convert):
    patient = make_phantom(0, (10.0, 10.0, 12.0))
    arguments = []
    for name, image in (("one", (patient.image + 1024).astype(np.int16)), ("two", patient.image)):
        folder.save(f"{name}/image.nii.gz", image, patient.affine)
        folder.save(f"{name}/label.nii.gz", patient.masks["liver"].astype(np.uint8), patient.affine)
        table = f"name: {name}\nimages: {name}/image.nii.gz\nlabels: {name}/label.nii.gz\nvalues: {{1: liver}}\n"
        (folder.path / f"{name}.yaml").write_text(table)
        arguments += ["--source", f"custom={folder.path / name}.yaml"]
    assert convert(*arguments)[0] == 0
    assert sorted(Manifest.load(nnunet.raw / "label_presence.json").cases) == ["two"]


@pytest.mark.parametrize(("values", "is_said"), [((1, 1, 1, 0), False), ((0, 0, 1, 1), True)])
def test_label_maps_of_one_scan_that_do_not_overlap_are_reported(values, is_said, folder, nnunet, convert):
    arguments = []
    for name, drawn in (("one", (1, 1, 0, 0)), ("two", values)):
        folder.image(f"{name}/image.nii.gz", 5)
        folder.label(f"{name}/label.nii.gz", *drawn)
        table = f"name: {name}\nimages: {name}/image.nii.gz\nlabels: {name}/label.nii.gz\nvalues: {{1: liver}}\n"
        (folder.path / f"{name}.yaml").write_text(table)
        arguments += ["--source", f"custom={folder.path / name}.yaml"]
    assert convert(*arguments)[0] == 0
    warnings = " ".join(json.loads((nnunet.raw / "conversion_report.json").read_text())["warnings"])
    assert ("one: liver of two, the same scan, lie elsewhere" in warnings) == is_said


def test_classes_that_a_copy_brings_are_not_missed_in_the_source_of_the_image(folder, nnunet, convert):
    arguments = []
    for name in ("liver", "spleen"):
        for seed in range(3):
            patient = make_phantom(seed, (10.0, 10.0, 12.0))
            folder.save(f"{name}/images/{seed}.nii.gz", patient.image, patient.affine)
            folder.save(f"{name}/labels/{seed}.nii.gz", patient.masks[name].astype(np.uint8), patient.affine)
        table = f"images: {name}/images/{{case}}.nii.gz\nlabels: {name}/labels/{{case}}.nii.gz\nvalues: {{1: {name}}}\n"
        (folder.path / f"{name}.yaml").write_text(f"name: of_{name}\n{table}")
        arguments += ["--source", f"custom={folder.path / name}.yaml"]
    assert convert(*arguments)[0] == 0
    report = json.loads((nnunet.raw / "conversion_report.json").read_text())
    assert len(report["merged_into"]) == 3 and report["warnings"] == []


@pytest.mark.parametrize(("factor", "is_said"), [(1, False), (1.01, False), (2, True)])
def test_other_voxel_sizes_of_one_scan_are_reported(factor, is_said, folder, msd, nnunet, convert):
    arguments = sources(msd)
    affine = AFFINE @ np.diag([1, 1, factor, 1])
    folder.save("Task09_Spleen/imagesTr/spleen_0.nii.gz", scan(0), affine)
    folder.save("Task09_Spleen/labelsTr/spleen_0.nii.gz", np.eye(8, 9, dtype=np.uint8)[..., None].repeat(10, 2), affine)
    assert convert(*arguments)[0] == 0
    warnings = " ".join(json.loads((nnunet.raw / "conversion_report.json").read_text())["warnings"])
    assert ("the same scan, of 2 x 2 x 5 mm: the latter are used" in warnings) == is_said


@pytest.mark.parametrize(
    "change",
    [
        lambda data, affine: ((data + 1024).astype(np.uint16), affine),
        lambda data, affine: (np.clip(data, -500, 700), affine),
        lambda data, affine: (data, affine @ np.diag([0.5, 0.5, 0.2, 1])),  # spacing 1 x 1 x 1
        lambda data, affine: (data[::-1].copy(), FLIPPED),
        lambda data, affine: (data.astype(np.float32), affine),
    ],
)
def test_a_changed_copy_is_merged_onto_the_right_voxels(change, folder, msd, nnunet, convert):
    arguments = sources(msd)
    for number in range(2):
        label = np.zeros((8, 9, 10), np.uint8)
        label[3, 0, 0] = 1
        data, affine = change(scan(number), AFFINE)
        folder.save(f"Task09_Spleen/imagesTr/spleen_{number}.nii.gz", data, affine)
        moved = label[::-1].copy() if affine is FLIPPED else label
        folder.save(f"Task09_Spleen/labelsTr/spleen_{number}.nii.gz", moved, affine)
    assert convert(*arguments)[0] == 0
    assert sorted(Manifest.load(nnunet.raw / "label_presence.json").cases) == ["msd_liver_0", "msd_liver_1"]
    assert classes_at(nnunet, "msd_liver_1", (3, 0, 0)) == {"spleen"}
    assert classes_at(nnunet, "msd_liver_1", (4, 0, 0)) == set()


def test_a_copy_whose_header_mirrors_it_stays_apart_in_one_group(folder, msd, nnunet, convert):
    arguments = sources(msd)
    for number in range(2):
        folder.save(f"Task09_Spleen/imagesTr/spleen_{number}.nii.gz", scan(number)[::-1].copy())
    assert convert(*arguments)[0] == 0
    cases = Manifest.load(nnunet.raw / "label_presence.json").cases
    assert len(cases) == 4
    assert cases["msd_liver_0"].group == cases["msd_spleen_0"].group
    assert any("its header places it otherwise" in text for text in report(nnunet)["warnings"])


def test_symmetric_scans_agree_in_several_ways_and_are_not_merged(folder, msd, nnunet, convert):
    arguments = sources(msd)
    for number in range(2):
        image = scan(number)
        image[4:] = image[3::-1]
        folder.save(f"Task03_Liver/imagesTr/liver_{number}.nii.gz", image)
        folder.save(f"Task09_Spleen/imagesTr/spleen_{number}.nii.gz", image)
    assert convert(*arguments)[0] == 0
    cases = Manifest.load(nnunet.raw / "label_presence.json").cases
    assert len(cases) == 4 and cases["msd_liver_0"].group == cases["msd_spleen_0"].group
    [first, _] = report(nnunet)["warnings"]
    assert "msd_liver_0 and msd_spleen_0 agree in several ways" in first and "both stay, in one group" in first


def test_cases_that_differ_are_not_merged_because_a_third_agrees_with_both(folder, nnunet, convert):
    """It is clipped to lung or bone in two copies, so that nothing tells whether these two are one scan."""
    image, arguments = scan(1), []
    for name, data in (("whole", image), ("lung", np.clip(image, -900, -200)), ("bone", np.clip(image, 100, 900))):
        folder.save(f"{name}/image.nii.gz", data)
        folder.label(f"{name}/label.nii.gz", 1)
        table = f"name: {name}\nimages: {name}/image.nii.gz\nlabels: {name}/label.nii.gz\nvalues: {{1: liver}}\n"
        (folder.path / f"{name}.yaml").write_text(table)
        arguments += ["--source", f"custom={folder.path / name}.yaml"]
    assert convert(*arguments)[0] == 0
    cases = Manifest.load(nnunet.raw / "label_presence.json").cases
    assert sorted(cases) == ["bone", "lung", "whole"] and len({case.group for case in cases.values()}) == 1
    assert any("another case agrees with both" in text for text in report(nnunet)["warnings"])


@pytest.mark.parametrize("unit", [lambda x: x / 500, lambda x: x // 250], ids=["scaled", "few values"])
def test_different_patients_in_another_unit_stay_different(unit, folder, msd, nnunet, convert):
    root = msd("msd_liver", 3, 1)
    for number in range(3):
        folder.save(f"Task03_Liver/imagesTr/liver_{number}.nii.gz", unit(scan(number)).astype(np.float32))
    assert convert("--source", f"msd_liver={root}")[0] == 0
    cases = Manifest.load(nnunet.raw / "label_presence.json").cases
    assert len(cases) == len({case.group for case in cases.values()}) == 3


@pytest.mark.parametrize("turned", [True, False])
def test_the_scan_of_a_copy_is_recognised_when_it_is_evaluated_alone(turned, folder, msd, nnunet, convert):
    """Whether it stays apart (its header mirrors it) or goes into another case (its intensities are shifted)."""
    arguments = sources(msd)
    for number in range(2):
        data = scan(number)[::-1].copy() if turned else scan(number) + 500
        folder.save(f"Task09_Spleen/imagesTr/spleen_{number}.nii.gz", data)
    assert convert(*arguments)[0] == 0
    assert convert(*arguments[2:], dataset="901")[0] == 0
    merged, alone = (
        Manifest.load(nnunet.raw.with_name(f"Dataset{i}_Universal") / "label_presence.json") for i in (900, 901)
    )
    assert merged.cases["msd_liver_0"].group != alone.cases["msd_spleen_0"].group
    assert set(leaked_cases(alone, merged)) == {"msd_spleen_0", "msd_spleen_1"}


def test_a_second_run_and_a_change_of_mind_move_files_only(msd, nnunet, convert):
    arguments = sources(msd)
    convert(*arguments, "--keep-copies")
    kept = {path.name: path.read_bytes() for path in nnunet.raw.glob("*Tr/*")}
    convert(*arguments)
    merged = {path.name: (path.read_bytes(), path.lstat().st_mtime_ns) for path in nnunet.raw.glob("*Tr/*")}
    convert(*arguments)
    assert {path.name: (path.read_bytes(), path.lstat().st_mtime_ns) for path in nnunet.raw.glob("*Tr/*")} == merged
    convert(*arguments, "--keep-copies")
    assert {path.name: path.read_bytes() for path in nnunet.raw.glob("*Tr/*")} == kept


def test_test_images_of_the_decathlon_in_disguise_are_left_out(folder, msd, nnunet, convert):
    root = msd("msd_liver", 3, 1, 2)
    folder.save("other/imagesTs/spleen_9.nii.gz", np.clip(scan(1) + 1024, 200, 1800).astype(np.uint16))
    arguments = ("--source", f"msd_liver={root}", "--exclude-msd-test", folder.path / "other")
    assert convert(*arguments)[0] == 0
    assert sorted(Manifest.load(nnunet.raw / "label_presence.json").cases) == ["msd_liver_0", "msd_liver_2"]
    assert report(nnunet)["left_out"] == {"msd_liver_1": "is the MSD test image spleen_9"}
    assert len(list((nnunet.raw / "imagesTr").iterdir())) == len(list((nnunet.raw / "labelsTr").iterdir())) == 2
    convert("--source", f"msd_liver={root}")
    assert len(list((nnunet.raw / "imagesTr").iterdir())) == len(list((nnunet.raw / "labelsTr").iterdir())) == 3


def test_patients_of_ircadb_are_held_out_with_every_copy_of_their_scans(folder, msd, nnunet, convert):
    root, spleen = msd("msd_liver", 2, 1), msd("msd_spleen", 2, 1)
    for part in ("imagesTr", "labelsTr"):  # liver_28 is patient 1; the spleen source has the same scan
        (root / part / "liver_0.nii.gz").rename(root / part / "liver_28.nii.gz")
    arguments = ("--source", f"msd_liver={root}", "--source", f"msd_spleen={spleen}", "--hold-out", "ircadb")
    assert convert(*arguments)[0] == 0
    assert sorted(Manifest.load(nnunet.raw / "label_presence.json").cases) == ["msd_liver_1"]
    assert set(report(nnunet)["left_out"]) == {"msd_liver_28", "msd_spleen_0"}


def test_scans_of_a_held_out_source_are_found_by_their_voxels(msd, nnunet, convert):
    liver, spleen = msd("msd_liver", 3, 1), msd("msd_spleen", 1, 1)
    assert convert("--source", f"msd_liver={liver}", "--hold-out", f"msd_spleen={spleen}")[0] == 0
    assert sorted(Manifest.load(nnunet.raw / "label_presence.json").cases) == ["msd_liver_1", "msd_liver_2"]


def test_holding_out_everything_is_refused_and_leaves_the_dataset_as_it_was(msd, nnunet, convert):
    root = msd("msd_liver", 2, 1)
    assert convert("--source", f"msd_liver={root}")[0] == 0
    code, text = convert("--source", f"msd_liver={root}", "--hold-out", f"msd_liver={root}")
    assert code == 2 and "every case is held out" in text
    assert len(list((nnunet.raw / "imagesTr").iterdir())) == len(list((nnunet.raw / "labelsTr").iterdir())) == 2


def test_scans_of_a_custom_table_are_held_out(folder, msd, nnunet, convert):
    root = msd("msd_liver", 3, 1)
    folder.image("mine/p_0000.nii.gz", 1)
    folder.label("mine/p.nii.gz", 1)
    table = "name: mine\nimages: mine/p_0000.nii.gz\nlabels: mine/p.nii.gz\nvalues: {1: spleen}\n"
    (folder.path / "mine.yaml").write_text(table)
    assert convert("--source", f"msd_liver={root}", "--hold-out", f"custom={folder.path / 'mine.yaml'}")[0] == 0
    assert sorted(report(nnunet)["left_out"]) == ["msd_liver_1"]


def test_a_case_can_be_skipped_and_the_message_says_how(folder, msd, nnunet, convert):
    root = msd("msd_liver", 3, 1)
    folder.label("Task03_Liver/labelsTr/liver_1.nii.gz", 7)
    code, text = convert("--source", f"msd_liver={root}")
    assert code == 3 and "--skip msd_liver_1" in text
    assert convert("--source", f"msd_liver={root}", "--skip", "msd_liver_1")[0] == 0
    assert report(nnunet)["skipped"] == ["msd_liver_1"]
    code, text = convert("--source", f"msd_liver={root}", "--skip", "msd_liver_9")
    assert code == 2 and "no such case" in text


def test_a_converted_case_that_finish_skips_is_gone(msd, nnunet, convert):
    arguments = ("--source", f"msd_liver={msd('msd_liver', 3, 1)}")
    assert convert(*arguments, "-num_parts", "2", "-part_id", "0")[0] == 0
    assert convert(*arguments, "-num_parts", "2", "-part_id", "1")[0] == 0
    assert convert(*arguments, "--finish", "--skip", "msd_liver_1")[0] == 0
    assert sorted(path.name for path in (nnunet.raw / "labelsTr").iterdir()) == [
        "msd_liver_0.nii.gz",
        "msd_liver_2.nii.gz",
    ]
    assert len(list((nnunet.raw / "imagesTr").iterdir())) == 2
    assert json.loads((nnunet.raw / "dataset.json").read_text())["numTraining"] == 2


def test_a_converted_case_whose_files_are_gone_is_refused_until_it_is_skipped(msd, nnunet, convert):
    root = msd("msd_liver", 3, 1)
    assert convert("--source", f"msd_liver={root}")[0] == 0
    for part in ("imagesTr", "labelsTr"):
        (root / part / "liver_1.nii.gz").unlink()
    code, text = convert("--source", f"msd_liver={root}")
    assert code == 2 and "msd_liver_1" in text and "--skip" in text
    assert convert("--source", f"msd_liver={root}", "--skip", "msd_liver_1")[0] == 0
    assert {path.name for path in (nnunet.raw / "imagesTr").iterdir()} == {
        "msd_liver_0_0000.nii.gz",
        "msd_liver_2_0000.nii.gz",
    }
    assert convert("--source", f"msd_liver={root}")[0] == 0


def test_a_part_that_begins_while_another_makes_the_folders_takes_them_for_its_own(tmp_path, monkeypatch):
    plan = {"sources": []}
    folders = tmp_path / "raw" / "Dataset900_Universal", tmp_path / "preprocessed" / "Dataset900_Universal"
    late = Target(*folders)
    is_file, asked = Path.is_file, []

    def the_other_part_is_faster(path):
        answer = is_file(path)
        if path.name == "plan.json" and not asked:
            asked.append(path)
            with Target(*folders).claim(plan, 0):
                pass
        return answer

    monkeypatch.setattr(Path, "is_file", the_other_part_is_faster)
    with late.claim(plan, 1):
        assert asked and (folders[0] / "imagesTr").is_dir()


@contextmanager
def held(path: Path, part: int | None):
    """Another process holds a lock."""
    script = "import sys; from pathlib import Path; from nnunetv2_clip.files import locked\n"
    script += f"with locked(Path({str(path)!r}), 'x', '', {part}): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()  # whatever becomes of it


def test_a_folder_is_written_by_one_job_or_by_several_parts(msd, nnunet, convert):
    arguments, lock = sources(msd), nnunet.raw / ".conversion" / "lock"
    assert convert(*arguments)[0] == 0
    for part in (None, 1):
        with held(lock, part) as process:
            for more in ((), ("-num_parts", 2, "-part_id", 1), ("--finish",)):
                code, error = convert(*arguments, *more)
                assert code == 2 and f"{nnunet.raw}: is being written by process {process.pid} on " in error
            assert convert(*arguments, "-num_parts", 2, "-part_id", 0)[0] == (0 if part else 2)
        assert convert(*arguments)[0] == 0


def test_a_conversion_that_an_older_version_began_is_refused_by_name(msd, nnunet, convert):
    """What it remembers of images is too coarse to tell small values apart."""
    arguments = ("--source", f"msd_liver={msd('msd_liver', 2, 1)}")
    assert convert(*arguments)[0] == 0
    plan = nnunet.raw / ".conversion" / "plan.json"
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {"format": 2}))
    code, text = convert(*arguments)
    assert code == 2 and "was begun with other format" in text and "convert anew" in text


def test_parts_and_finish_give_the_files_of_one_run(msd, nnunet, convert):
    arguments = sources(msd)
    assert convert(*arguments)[0] == 0
    content = lambda raw: {p.relative_to(raw): p.read_bytes() for p in raw.rglob("*") if p.is_file()}  # noqa: E731
    whole = content(nnunet.raw)
    other = nnunet.raw.with_name("Dataset901_Universal")
    code, text = convert(*arguments, "--finish", dataset="901")
    assert code == 2 and "4 of 4 cases are not converted yet" in text
    for part in (1, 0):
        assert convert(*arguments, "-num_parts", "2", "-part_id", str(part), dataset="901")[0] == 0
    assert not (other / "dataset.json").exists()
    assert convert(*arguments, "--finish", dataset="901")[0] == 0
    for path, data in content(other).items():
        if path.name != "dataset.json":
            assert whole[path] == data, path


@pytest.mark.parametrize(
    "name", ["compared/*.json", "merged/*.json", "merged/*.nii.gz", "labels/*.nii.gz", "../labelsTr/*"]
)
def test_what_is_broken_of_a_union_is_made_again(msd, nnunet, convert, name):
    arguments = sources(msd)
    assert convert(*arguments)[0] == 0
    content = lambda: {p.relative_to(nnunet.raw): p.read_bytes() for p in nnunet.raw.rglob("*") if p.is_file()}  # noqa: E731
    before = content()
    broken = list((nnunet.raw / ".conversion").glob(name))
    assert broken
    for path in broken:
        path.write_bytes(b"")
    assert convert(*arguments)[0] == 0
    assert content() == before


def annotation(values, classes_of, annotated, absent=(), incomplete=()):
    labels = ClassMap(np.array(values, np.uint16), {**classes_of, PENDING_UNKNOWN: None})
    return Annotation(labels, frozenset(annotated), frozenset(absent), frozenset(incomplete))


def sets_at(union):
    return [union.labels.sets[value] for value in union.labels.values.tolist()]


def test_a_tumour_gained_from_a_copy_is_part_of_the_organ():
    organ = annotation([1, 1, 0], {1: ["liver"]}, ["liver"])
    tumour = annotation([0, 1, 1], {1: ["liver_tumor"]}, ["liver_tumor"])
    union, contradictions = unite(organ, tumour, UNIVERSAL)
    assert sets_at(union) == [{"liver"}, {"liver", "liver_tumor"}, {"liver", "liver_tumor"}]
    assert contradictions == {}


def test_a_kidney_tumour_gained_from_a_copy_is_kidney_on_the_side_that_the_copy_tells():
    kidneys = ["right_kidney", "left_kidney"]
    organs = annotation([1, 0, 0, 2], {1: ["right_kidney"], 2: ["left_kidney"]}, kidneys)
    values = {1: ["right_kidney"], 2: ["right_kidney", "kidney_tumor"], 3: ["left_kidney", "kidney_tumor"]}
    tumours = annotation([1, 2, 3, 0], values, [*kidneys, "kidney_tumor"])
    union, _ = unite(organs, tumours, UNIVERSAL)
    assert sets_at(union) == [
        {"right_kidney"},
        {"right_kidney", "kidney_tumor"},
        {"left_kidney", "kidney_tumor"},
        {"left_kidney"},
    ]


def test_a_class_that_one_source_annotates_is_not_absent():
    first = annotation([1, 0], {1: ["liver"]}, ["liver"], absent=["liver_tumor", "kidney_tumor"])
    second = annotation([0, 1], {1: ["liver_tumor"]}, ["liver_tumor"])
    union, _ = unite(first, second, UNIVERSAL)
    assert union.absent == {"kidney_tumor"} and union.annotated == {"liver", "liver_tumor"}


def test_what_is_unknown_in_one_is_as_the_other_tells():
    """Where one of them says nothing at all, its classes alone are unknown."""
    first = annotation([1, PENDING_UNKNOWN, 0], {1: ["liver"]}, ["liver"])
    second = annotation([1, 1, PENDING_UNKNOWN], {1: ["spleen"]}, ["spleen"])
    union, _ = unite(first, second, UNIVERSAL)
    assert sets_at(union) == [{"liver", "spleen"}, {"spleen"} | unknown_of(["liver"]), unknown_of(["spleen"])]


def test_what_is_unknown_in_both_is_unknown():
    first, second = (annotation([1, PENDING_UNKNOWN], {1: [name]}, [name]) for name in ("liver", "spleen"))
    union, _ = unite(first, second, UNIVERSAL)
    assert sets_at(union) == [{"liver", "spleen"}, None]


@pytest.mark.parametrize("swapped", [False, True])
def test_a_voxel_that_is_unknown_for_a_class_is_as_the_other_source_tells(swapped):
    open_at = {1: ["liver"], 2: unknown_of(["liver"])}
    parts = annotation([2, 2, 1], open_at, ["liver"]), annotation([1, 0, 2], open_at, ["liver"])
    union, contradictions = unite(*(parts[::-1] if swapped else parts), UNIVERSAL)
    assert sets_at(union) == [{"liver"}, set(), {"liver"}] and contradictions == {}


def test_contradictions_are_unknown_by_choice():
    first = annotation([1, 1, 0, 0], {1: ["liver"]}, ["liver"])
    second = annotation([1, 0, 1, 2], {1: ["liver"], 2: ["liver", "liver_tumor"]}, ["liver", "liver_tumor"])
    union, contradictions = unite(first, second, UNIVERSAL, "unknown")
    liver = unknown_of(["liver"])
    assert sets_at(union) == [{"liver"}, liver, liver, {"liver", "liver_tumor"}], "a tumour is organ in any case"
    assert contradictions == {"liver": 3}
    assert sets_at(unite(first, second, UNIVERSAL)[0])[1:3] == [{"liver"}, set()]


@pytest.mark.parametrize("choice", ["first", "unknown"])
def test_contradictions_of_two_sources_from_files_to_scores(folder, nnunet, convert, choice, tmp_path):
    """Voxel 1 of the scan is liver in the first source alone; a prediction without it is as good as one with it."""
    for name, second in (("one", 1), ("two", 0)):
        folder.image(f"{name}/images/p.nii.gz", 1)
        folder.label(f"{name}/labels/p.nii.gz", 1, second)
        files = f"images: {name}/images/{{case}}.nii.gz\nlabels: {name}/labels/{{case}}.nii.gz\n"
        (folder.path / f"{name}.yaml").write_text(f"name: {name}\n{files}values: {{1: liver}}\n")
    sources = [text for name in ("one", "two") for text in ("--source", f"custom={folder.path / name}.yaml")]
    assert convert(*sources, "--contradictions", choice)[0] == 0
    content = json.loads((nnunet.raw / "dataset.json").read_text())
    label = nib.load(nnunet.raw / "labelsTr" / "one_p.nii.gz")
    value = int(np.asanyarray(label.dataobj)[1, 0, 0])
    assert content.get("unknown") == ({"liver": [value]} if choice == "unknown" else None)
    assert (value in content["labels"]["liver"]) == (choice == "first")
    case = Manifest.load(nnunet.raw / "label_presence.json").case("one_p")
    how = {"first": "decided by the source named first", "unknown": "unknown now"}[choice]
    assert f"contradicting voxels, {how}: 1 of liver" in case.geometry_fixes[0]
    without = np.zeros(label.shape, np.uint8)
    without[0, 0, 0] = 6
    (tmp_path / "pred").mkdir()
    nib.save(nib.Nifti1Image(without, label.affine), tmp_path / "pred" / "one_p.nii.gz")
    reference, predicted = str(nnunet.raw / "labelsTr"), str(tmp_path / "pred")
    assert main(["evaluate", "-ref", reference, "-pred", predicted, "-np", "1"]) == 0
    [pair] = Evaluation.load(tmp_path / "pred" / "evaluation").pairs
    expected = {"first": (2 / 3, 2), "unknown": (1, 1)}[choice]
    assert (pair.metrics["Dice"], pair.metrics["n_ref"]) == (pytest.approx(expected[0]), expected[1])
    code, text = convert(*sources, "--contradictions", {"first": "unknown", "unknown": "first"}[choice])
    assert code == 2 and "the same sources and options as before" in text


PART = {1: ["liver_tumor"]}


def tumour_of(first, second):
    union, contradictions = unite(first, second, UNIVERSAL)
    return [int("liver_tumor" in classes) for classes in sets_at(union)], union, contradictions


@pytest.mark.parametrize("whole_is_first", [True, False])
def test_an_annotated_class_is_taken_from_who_annotates_it_and_not_from_who_has_it_incomplete(whole_is_first):
    whole = annotation([0, 1, 1], PART, ["liver_tumor"])
    part = annotation([1, 1, 0], PART, [], incomplete=["liver_tumor"])
    drawn, union, contradictions = tumour_of(*((whole, part) if whole_is_first else (part, whole)))
    assert drawn == [0, 1, 1] and union.annotated == {"liver_tumor"} and not union.incomplete
    assert contradictions == {"liver_tumor": 1}, "that the third voxel is not drawn in the incomplete one says nothing"


def test_two_incomplete_drawings_are_united_and_stay_incomplete():
    first, second = (annotation(row, PART, [], incomplete=["liver_tumor"]) for row in ([1, 0, 0], [0, 1, 0]))
    drawn, union, contradictions = tumour_of(first, second)
    assert drawn == [1, 1, 0] and union.incomplete == {"liver_tumor"} and contradictions == {}


@pytest.mark.parametrize("drawn", [[1, 0], [0, 0]])
def test_a_class_that_one_calls_absent_stays_incomplete_only_where_the_other_has_drawn_some(drawn):
    part = annotation(drawn, PART, [], incomplete=["liver_tumor"])
    healthy = annotation([0, 0], {}, [], absent=["liver_tumor"])
    for pair in ((part, healthy), (healthy, part)):
        found, union, contradictions = tumour_of(*pair)
        assert found == drawn
        assert set(union.incomplete if any(drawn) else union.absent) == {"liver_tumor"}
        assert not (union.absent if any(drawn) else union.incomplete)
        assert contradictions == ({"liver_tumor": 1} if any(drawn) else {})


def test_copies_that_are_drawn_in_part_or_called_absent_are_told_in_the_report(folder, nnunet, convert):
    """p2 of both sources is one scan: the second source calls absent what the first one has drawn in part."""
    for name, key in (("one", "incomplete: [liver_tumor]"), ("two", "annotated: [liver]\nabsent: [liver_tumor]")):
        for number in (1, 2) if name == "one" else (2, 3):
            folder.image(f"{name}/images/p{number}.nii.gz", number)
            folder.label(f"{name}/labels/p{number}.nii.gz", 1, 2 if name == "one" else 1)
        files = f"images: {name}/images/{{case}}.nii.gz\nlabels: {name}/labels/{{case}}.nii.gz\n"
        values = "values: {1: liver, 2: liver_tumor}\n"
        (folder.path / f"{name}.yaml").write_text(f"name: {name}\n{files}{values}{key}\n")
    sources = [f"custom={folder.path / name}.yaml" for name in ("one", "two")]
    assert convert("--source", sources[0], "--source", sources[1])[0] == 0
    cases = Manifest.load(nnunet.raw / "label_presence.json").cases
    assert cases["one_p2"].incomplete == ("liver_tumor",) and cases["one_p2"].absent == ()
    assert cases["two_p3"].absent == ("liver_tumor",)
    assert "contradicting voxels, drawn by one source alone: 1 of liver_tumor" in cases["one_p2"].geometry_fixes[0]
    [warning] = [text for text in report(nnunet)["warnings"] if "calls it absent" in text]
    assert warning.startswith("one_p2: liver_tumor is drawn in 1 voxels, though two_p2")


@pytest.fixture
def clinic(folder):
    """clinic(name, *(case, seed), patient=expression) writes a source of one's own; gives its table."""

    def write(name, *cases, patient=""):
        for case, seed in cases:
            folder.image(f"{name}/images/{case}.nii.gz", seed)
            folder.label(f"{name}/labels/{case}.nii.gz", 1)
        table = folder.path / f"{name}.yaml"
        key = f"patient: {patient}\n" if patient else ""
        files = f"images: {name}/images/{{case}}.nii.gz\nlabels: {name}/labels/{{case}}.nii.gz\n"
        table.write_text(f"name: {name}\n{files}values: {{1: liver}}\n{key}")
        return f"custom={table}"

    return write


@pytest.mark.parametrize("keep", [(), ("--keep-copies",)])
def test_a_copy_joins_the_patients_of_two_sources(keep, clinic, nnunet, convert):
    """a_1 and b_9 are one scan: so patients a and 9 are one, and b_8 is of it."""
    one = clinic("one", ("a_0", 0), ("a_1", 1), ("c_0", 2), patient="^.")
    two = clinic("two", ("9_b", 1), ("9_c", 3), ("8_b", 4), patient="^.")
    assert convert("--source", one, "--source", two, *keep)[0] == 0
    cases = Manifest.load(nnunet.raw / "label_presence.json").cases
    together = {"one_a_0", "one_a_1", "two_9_c"} | ({"two_9_b"} if keep else set())
    assert {case_id for case_id, case in cases.items() if case.group == cases["one_a_0"].group} == together
    assert ("two_9_b" in cases) == bool(keep)
    for fold in json.loads((nnunet.raw / "splits_final.json").read_text()):
        assert set(fold["val"]) >= together or not set(fold["val"]) & together


def test_all_scans_of_a_patient_who_is_held_out_are_left_out(clinic, folder, nnunet, convert):
    one = clinic("one", ("a_0", 0), ("a_1", 1), ("b_0", 2), patient="^.")
    test = clinic("test", ("x", 1))
    assert convert("--source", one, "--hold-out", test)[0] == 0
    assert set(Manifest.load(nnunet.raw / "label_presence.json").cases) == {"one_b_0"}
    assert report(nnunet)["left_out"] == {
        "one_a_0": "shows the same patient as a scan that shows test_x, which is held out",
        "one_a_1": "shows test_x, which is held out",
    }


def test_another_scan_of_a_held_out_patient_of_the_same_source_is_left_out(clinic, folder, nnunet, convert):
    one = clinic("one", ("a_0", 0), ("b_0", 2), patient="^.")
    test = clinic("test", ("a_9", 9), patient="^.")
    table = folder.path / "test.yaml"
    table.write_text(table.read_text().replace("name: test", "name: one"))
    assert convert("--source", one, "--hold-out", test)[0] == 0
    assert set(Manifest.load(nnunet.raw / "label_presence.json").cases) == {"one_b_0"}


def test_a_patient_of_the_training_is_recognised_in_an_evaluation(clinic, nnunet, convert):
    one = clinic("one", ("a_0", 0), ("a_1", 1), ("b_0", 2), patient="^.")
    assert convert("--source", one, "--skip", "one_a_1", "--skip", "one_b_0")[0] == 0
    assert convert("--source", one, "--skip", "one_a_0", dataset="901")[0] == 0
    training, evaluated = (
        Manifest.load(nnunet.raw.with_name(f"Dataset{i}_Universal") / "label_presence.json") for i in (900, 901)
    )
    assert leaked_cases(evaluated, training) == {"one_a_1": "same patient as training case one_a_0"}
