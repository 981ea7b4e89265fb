"""Two models on the same cases, and agreement between label sources."""

import json
import math

import numpy as np
import pytest
from scipy.stats import wilcoxon

from nnunetv2_clip.cli import main
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.evaluation.comparison import ALL_CLASSES, compare_models, holm
from nnunetv2_clip.evaluation.results import Evaluation, PairScore
from tests.evaluation.drawings import TABLE, dataset_json, row, save

LIVER, BOTH = TABLE.encode({"liver"}), TABLE.encode({"liver", "liver_tumor"})


def evaluation(values: dict, leaked=()) -> Evaluation:
    """From {class: {case: Dice}}."""
    pairs = [
        PairScore(case, "d", name, "annotated", {"Dice": dice})
        for name, cases in values.items()
        for case, dice in cases.items()
    ]
    return Evaluation(tuple(pairs), tuple(values), dict.fromkeys(leaked, "seen"))


def scores(*values: float) -> dict:
    return {f"case_{number:02d}": value for number, value in enumerate(values)}


def test_differences_are_second_minus_first_over_common_cases():
    first = evaluation({"liver": scores(0.5, 0.6, 0.7)})
    second = evaluation({"liver": {"case_01": 0.8, "case_00": 0.6, "stranger": 0.1}})
    liver = compare_models(first, second)[0]
    np.testing.assert_allclose(liver.differences, [0.1, 0.2])
    assert liver.means == (pytest.approx(0.55), pytest.approx(0.7))


def test_undefined_pairs_and_seen_cases_do_not_count():
    first = evaluation({"liver": scores(0.5, float("nan"), 0.7, 0.2)}, leaked=["case_03"])
    second = evaluation({"liver": scores(0.6, 0.9, 0.9, 0.9)})
    assert len(compare_models(first, second)[0].differences) == 2


def test_test_is_wilcoxon_and_holm_takes_the_number_of_classes():
    rng = np.random.default_rng(0)
    base, gain = rng.uniform(0.4, 0.6, 12), rng.uniform(0.01, 0.2, 12)
    first = evaluation({"liver": scores(*base), "spleen": scores(*base)})
    second = evaluation({"liver": scores(*(base + gain)), "spleen": scores(*(base + gain - 0.1))})
    liver, spleen, both = compare_models(first, second)
    assert liver.p_value == pytest.approx(wilcoxon(gain).pvalue)
    assert liver.p_holm == pytest.approx(2 * liver.p_value)
    assert spleen.p_holm == pytest.approx(max(spleen.p_value, liver.p_holm))
    assert both.class_name == ALL_CLASSES and math.isnan(both.p_holm)
    np.testing.assert_allclose(both.differences, gain - 0.05)


def test_holm_on_the_textbook_example():
    """p = 0.01, 0.04, 0.03, 0.005 with four tests: sorted times 4, 3, 2, 1, then never falling."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1, 1]
    nan_kept = holm([0.01, float("nan")])
    assert nan_kept[0] == 0.01 and math.isnan(nan_kept[1])


def test_equal_models_do_not_differ():
    same = evaluation({"liver": scores(0.5, 0.6, 0.7)})
    liver = compare_models(same, same)[0]
    assert (liver.mean_difference, liver.p_value, liver.interval) == (0, 1, (0, 0))


def test_interval_holds_the_mean_difference():
    first, second = evaluation({"liver": scores(0.5, 0.6, 0.7, 0.4)}), evaluation({"liver": scores(0.7, 0.5, 0.9, 0.5)})
    liver = compare_models(first, second)[0]
    assert liver.interval[0] < liver.mean_difference < liver.interval[1]


def test_evaluations_without_common_pair_are_refused():
    with pytest.raises(UserError, match="share no case"):
        compare_models(evaluation({"liver": scores(0.5)}), evaluation({"spleen": scores(0.5)}))
    with pytest.raises(UserError, match="NSD was not computed"):
        compare_models(evaluation({"liver": scores(0.5)}), evaluation({"liver": scores(0.5)}), "NSD")


def test_compare_command_writes_table_and_picture(tmp_path, capsys):
    evaluation({"liver": scores(0.5, 0.6, 0.7)}).save(tmp_path / "first.json")
    evaluation({"liver": scores(0.6, 0.7, 0.9)}).save(tmp_path / "second.json")
    command = ["compare", "-i", f"old={tmp_path / 'first.json'}", f"new={tmp_path / 'second.json'}"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 0
    assert "+0.133" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert found["classes"]["liver"]["mean_difference"] == pytest.approx(0.4 / 3)
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "<svg" in page and "liver" in page
    assert main([*command[:2], f"a={tmp_path}", "nonsense", "-o", str(tmp_path)]) == 2


@pytest.fixture
def readers(tmp_path):
    """Two readers in label values and a model's painted prediction of two cases."""
    drawn = {
        "dr1": {"a": row(LIVER, LIVER, BOTH, 0), "b": row(LIVER, LIVER, 0, 0)},
        "dr2": {"a": row(LIVER, LIVER, 0, 0), "b": row(LIVER, 0, 0, 0), "only_here": row(0)},
        "ai": {"a": row(6, 6, 27, 0), "b": row(6, 6, 0, 0)},
    }
    for source, cases in drawn.items():
        for case, label_map in cases.items():
            save(label_map, tmp_path / source / f"{case}.nii.gz")
    (tmp_path / "dr1" / "dataset.json").write_text(json.dumps(dataset_json("liver", "liver_tumor")))
    return tmp_path


def test_agreement_of_every_pair_of_sources(readers, capsys):
    labels = [f"{name}={readers / name}" for name in ("dr1", "dr2")]
    sources = ["-ref", *labels, "-pred", f"ai={readers / 'ai'}"]
    assert main(["paper", "agreement", *sources, "-np", "1", "-o", str(readers / "out")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| liver")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    # liver: dr1-dr2 0.8 and 2/3; dr1-ai 1 and 1; tumour: only in case a, dr2 drew none
    assert cells == [
        ["liver", "0.733 ± 0.094 (2)", "1.000 ± 0.000 (2)", "0.733 ± 0.094 (2)"],
        ["liver_tumor", "0.000 (1)", "1.000 (1)", "0.000 (1)"],
    ]
    assert "<svg" in (readers / "out" / "agreement.html").read_text()


def test_one_source_or_no_common_case_is_refused(readers, capsys):
    assert main(["paper", "agreement", "-ref", f"dr1={readers / 'dr1'}", "-o", str(readers / "out")]) == 2
    assert "1 label source" in capsys.readouterr().err
    save(row(0), readers / "other" / "z.nii.gz")
    sources = "-ref", f"dr1={readers / 'dr1'}", f"o={readers / 'other'}"
    assert main(["paper", "agreement", *sources, "-o", str(readers / "out")]) == 2
    assert "no case" in capsys.readouterr().err
