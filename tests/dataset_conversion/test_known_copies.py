"""Known numbers of the same scans: a sample of each list, and the note when voxels contradict it."""

import json

import pytest

from nnunetv2_clip.dataset_conversion.known_copies import RENUMBERED, known_scan


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("lits", 5), ("msd_liver", 5)),
        (("abdomenct_1k", 66), ("lits", 10)),
        (("abdomenct_1k", 2), ("kits19", 4)),
        (("abdomenct_1k", 764), ("kits23", 296)),
        (("abdomenct_1k", 181), ("msd_spleen", 10)),
        (("flare22", 50), ("msd_pancreas", 313)),
        (("ct_org", 28), ("ircadb", 1)),
        (("ct_org", 47), ("lits", 47)),
        (("kits21", 299), ("kits23", 299)),
    ],
)
def test_copies_are_known_by_their_numbers(one, other):
    assert known_scan(*one) == known_scan(*other) is not None


@pytest.mark.parametrize("case", [("ct_org", 17), ("abdomenct_1k", 1), ("flare22", 4), ("word", 1), ("amos22", 4)])
def test_what_is_not_known_is_not_claimed(case):
    assert known_scan(*case) is None


def test_every_case_and_every_original_is_named_once():
    for lists in RENUMBERED.values():
        cases = [case for numbers in lists.values() for case in numbers]
        assert len(cases) == len(set(cases))
        for numbers in lists.values():
            assert len(set(numbers.values())) == len(numbers)


def test_different_voxels_under_numbers_of_one_scan_are_reported(folder, msd, nnunet, convert):
    for number in (0, 1):
        folder.image(f"lits/volume-{number}.nii", 10 * number)  # msd_liver_0 is the same scan, msd_liver_1 is not
        folder.label(f"lits/segmentation-{number}.nii", 1)
    sources = (f"msd_liver={msd('msd_liver', 2, 1)}", f"lits={folder.path / 'lits'}")
    assert convert("--source", sources[0], "--source", sources[1])[0] == 0
    warnings = json.loads((nnunet.raw / "conversion_report.json").read_text())["warnings"]
    notes = [text for text in warnings if "one scan" in text]
    assert notes == ["msd_liver_1 and lits_1 should be one scan (LiTS number 1), but voxels differ"]
