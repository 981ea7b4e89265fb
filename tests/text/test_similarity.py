"""Similarity of classes: numbers that can be checked on paper."""

import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.text.encode import SHIPPED_MINILM, encode
from nnunetv2_clip.text.similarity import (
    cosines,
    looks_random,
    pairs_by_similarity,
    rank_report,
    relations,
    save_similarity_figure,
    warnings_of,
)
from nnunetv2_clip.text.table import TextTable


def fan(**degrees: float) -> TextTable:
    """Unit vectors in the plane at these angles: the cosine of two classes is that of the angle between them."""
    radians = np.radians(list(degrees.values()))
    vectors = np.stack([np.cos(radians), np.sin(radians)], axis=1)
    return TextTable.of(list(degrees), [()] * len(degrees), "fan", "numpy", vectors)


def test_cosines_and_the_nearest_pair():
    table = fan(liver=0, spleen=90, liver_tumor=60)
    np.testing.assert_allclose(cosines(table), [[1, 0, 0.5], [0, 1, 0.866], [0.5, 0.866, 1]], atol=1e-3)
    assert pairs_by_similarity(table)[0][:2] == ("spleen", "liver_tumor")


def test_rank_of_a_tumour_among_its_organs_neighbours():
    found = list(relations(fan(liver=0, spleen=10, liver_tumor=20, bladder=90, aorta=-15), UNIVERSAL))
    assert [(r.anchor, r.relative, r.rank) for r in found] == [("liver", "liver_tumor", 3)]
    assert found[0].cosine == pytest.approx(np.cos(np.radians(20)))


def test_left_and_right_are_ranked_from_both_sides():
    table = fan(right_kidney=0, left_kidney=10, spleen=15)  # the spleen is nearer to the left kidney
    assert {(r.anchor, r.rank) for r in relations(table, UNIVERSAL)} == {("right_kidney", 1), ("left_kidney", 2)}


def test_equal_cosines_share_their_mean_rank():
    onehot = encode("onehot", [UNIVERSAL.find(name) for name in ("liver", "liver_tumor", "spleen", "aorta")])
    assert [r.rank for r in relations(onehot, UNIVERSAL)] == [2]  # of ranks 1, 2, 3


def test_the_report_sets_tables_side_by_side_with_means_and_chance():
    tables = {"a": fan(liver=0, liver_tumor=5, spleen=10), "b": fan(liver=0, liver_tumor=10, spleen=5)}
    lines = [line.split() for line in rank_report(tables, UNIVERSAL).splitlines()]
    assert lines[1] == ["liver_tumor", "liver", "1", "(1.00)", "2", "(0.98)"]
    assert lines[2] == ["mean", "rank,", "organ", "and", "part", "1.0", "2.0"]
    assert lines[3] == ["mean", "rank", "by", "chance", "1.5", "1.5"]


def test_indistinguishable_classes_are_warned_of():
    assert warnings_of(fan(liver=0, spleen=2, aorta=60)) == [
        "liver and spleen are indistinguishable (cosine 0.9994); give them other prompt nouns or another encoder"
    ]
    assert not warnings_of(fan(liver=0, spleen=3, aorta=60))  # cos 3 degrees = 0.9986


@pytest.mark.parametrize("encoder", ["random:0", "random:1", "onehot"])
def test_random_and_one_hot_tables_look_random(encoder):
    assert looks_random(encode(encoder, UNIVERSAL.rows))


def test_random_vectors_with_a_common_offset_look_random_although_all_cosines_are_high():
    vectors = np.random.default_rng(0).uniform(0, 1, (32, 256))
    table = TextTable.of(UNIVERSAL.names, [()] * 32, "file:x.pth", "torch", vectors)
    assert cosines(table).min() > 0.6
    assert looks_random(table)


def test_a_table_of_sentences_does_not_look_random():
    assert warnings_of(TextTable.load(SHIPPED_MINILM)) == []


def test_the_figure_is_written_as_png_and_svg_with_every_class_name(tmp_path):
    tables = {"one": fan(liver=0, liver_tumor=5), "two": fan(spleen=0, portal_and_splenic_vein=20, aorta=50)}
    png, svg = (tmp_path / "new" / f"similarity.{ending}" for ending in ("png", "svg"))
    save_similarity_figure(tables, png)
    assert png.read_bytes()[:4] == b"\x89PNG"
    text = svg.read_text()
    assert all(f"<!-- {name} -->" in text for name in ("liver tumor", "portal and splenic vein", "aorta"))
    assert sorted(path.name for path in png.parent.iterdir()) == ["similarity.png", "similarity.svg"]


def test_of_many_indistinguishable_pairs_five_are_named_and_the_others_counted():
    alike = warnings_of(fan(**{f"class_{n}": 0 for n in range(6)}))  # 15 pairs
    assert len(alike) == 6
    assert alike[-1].startswith("10 more pairs")
