"""`datasets` lists what there is; `check` finds before a conversion what would be wrong after it."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_clip.cli import main
from nnunetv2_clip.dataset_conversion.registry import all_sources
from nnunetv2_clip.phantom.layouts.base import write_source


@pytest.fixture
def check(tmp_path, capsys):
    """check(*arguments) -> (exit code, printed text, page)."""

    def run(*arguments):
        page = tmp_path / "check.html"
        code = main(["check", "-np", "1", "-o", str(page), *map(str, arguments)])
        return code, capsys.readouterr().out, page.read_text() if page.is_file() else ""

    return run


@pytest.fixture(scope="module")
def liver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("liver") / "source"
    return write_source("msd_liver", folder, (1, 2, 3), spacing_mm=(8.0, 8.0, 8.0), numbers=(60, 61, 62)).root


def test_a_script_reads_the_problems(check, liver):
    code, text, page = check("--source", f"msd_liver={liver}", "--json")
    found = json.loads(text)
    assert code == 1 and page
    [source] = found["sources"]
    assert (source["name"], source["found"], source["expected"]) == ("msd_liver", 3, 131)
    assert len(found["problems"]) == 1 and "131" in found["problems"][0]
    assert found["copies"] == [] and found["needed_bytes"] > 0


def test_datasets_tells_classes_licence_and_where_to_get_every_source(capsys):
    assert main(["datasets", "--json"]) == 0
    facts = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(facts) == set(all_sources())
    assert facts["msd_liver"]["annotated"] == ["liver", "liver_tumor"]
    for row in facts.values():
        own = row["name"] == "unlabelled"
        assert row["licence"] and row["unpack"], row["name"]
        assert own or (row["url"].startswith("http") and row["annotated"]), row["name"]


def test_the_table_names_every_source_and_one_source_tells_how_to_convert(capsys):
    main(["datasets"])
    table = capsys.readouterr().out
    assert all(f"{name} " in table for name in all_sources())
    main(["datasets", "word"])
    assert "--source word=PATH" in capsys.readouterr().out
    assert main(["datasets", "wort"]) == 2


def test_good_downloads_give_exit_code_0_and_a_page_with_every_case(liver, check):
    code, text, page = check("--source", f"msd_liver={liver}", "--partial")
    assert code == 0 and "Problem" not in text
    assert page.count('alt="coronal slice of msd_liver_') == 3
    assert "3/3" in page and "data:image/webp" in page


def test_published_cases_that_are_left_out_are_not_missed(tmp_path):
    source = all_sources()["totalsegmentator_v1"]
    for name in ("s0000", "s0092", "s0864"):
        (tmp_path / "Totalsegmentator_dataset" / name).mkdir(parents=True)
    assert source.num_cases == 1204
    assert source.num_expected(tmp_path) == source.num_expected(tmp_path / "Totalsegmentator_dataset") == 1203


def test_an_incomplete_download_is_a_problem(liver, check):
    code, text, _ = check("--source", f"msd_liver={liver}")
    assert code == 1
    assert "3 labelled cases found, the complete download has 131" in text


def test_a_sample_reads_few_voxels_and_all_headers(liver, check):
    _, _, page = check("--source", f"msd_liver={liver}", "--partial", "--sample", "1")
    assert page.count('alt="coronal slice of') == 1


def test_damage_mirrored_volumes_and_copies_are_found(liver, check, tmp_path):
    root = shutil.copytree(liver, tmp_path / "Task03_Liver")
    for part in ("imagesTr", "labelsTr"):
        path = root / part / "liver_60.nii.gz"
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj)[::-1].copy(), image.affine), path)
        shutil.copy(root / part / "liver_62.nii.gz", root / part / "liver_99.nii.gz")
    broken = root / "labelsTr" / "liver_61.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-30])
    code, text, page = check("--source", f"msd_liver={root}", "--partial")
    assert code == 1
    assert "msd_liver_60: looks mirrored" in text
    assert "msd_liver_61" in text and "the file is complete" in text
    assert "1 pairs of cases show the same scan" in text
    assert "<td>msd_liver_99</td><td>msd_liver_62</td>" in page


def test_an_unknown_label_value_is_found(folder, msd, check):
    root = msd("msd_liver", 2, 1)
    folder.label("Task03_Liver/labelsTr/liver_1.nii.gz", 7)
    code, text, _ = check("--source", f"msd_liver={root}", "--partial")
    assert code == 1 and "unknown label values [7]" in text


@pytest.mark.parametrize("error", [MemoryError(), ValueError("unforeseen")])
def test_a_case_that_raises_anything_is_a_problem_of_that_case(msd, check, monkeypatch, error):
    from nnunetv2_clip.conversion import case as conversion

    real = conversion.load_case

    def load_case(source, case, taxonomy):
        if case.case_id == "msd_liver_1":
            raise error
        return real(source, case, taxonomy)

    monkeypatch.setattr(conversion, "load_case", load_case)
    code, text, page = check("--source", f"msd_liver={msd('msd_liver', 3, 1)}", "--partial")
    assert code == 1 and "Problem: msd_liver_1: " in text and "liver_1.nii.gz" in text
    assert page.count('alt="coronal slice of') == 2


def test_an_image_of_one_value_is_found(folder, msd, check):
    root = msd("msd_liver", 2, 1)
    folder.save("Task03_Liver/imagesTr/liver_1.nii.gz", np.zeros((8, 9, 10), np.int16))
    code, text, _ = check("--source", f"msd_liver={root}", "--partial")
    assert code == 1 and "all voxels have the same value" in text


def test_a_missing_folder_does_not_stop_the_look_at_the_others(liver, check, tmp_path):
    code, text, page = check("--source", f"lits={tmp_path / 'none'}", "--source", f"msd_liver={liver}", "--partial")
    assert code == 1
    assert "is no folder" in text and page.count('alt="coronal slice of') == 3


def test_nothing_is_written_but_the_page(msd, check, nnunet):
    check("--source", f"msd_liver={msd('msd_liver', 1, 1)}")
    assert not nnunet.raw.exists() and not nnunet.preprocessed.exists()


def test_an_incomplete_class_is_told_from_an_annotated_one(folder, check):
    for number in (1, 2, 3):
        folder.image(f"images/p{number}.nii.gz", number)
        folder.label(f"labels/p{number}.nii.gz", 1, 2 if number == 1 else 1)
    table = folder.path / "mine.yaml"
    files = "images: images/{case}.nii.gz\nlabels: labels/{case}.nii.gz\n"
    table.write_text(f"name: mine\n{files}values: {{1: liver, 2: liver_tumor}}\nincomplete: [liver_tumor]\n")
    _, _, page = check("--source", f"custom={table}")
    assert "<td>3/3" in page and "<td>incomplete 1/3" in page
