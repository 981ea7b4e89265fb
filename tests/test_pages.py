"""Pages of tables: every text escaped, pictures as they are, nothing loaded from elsewhere."""

from __future__ import annotations

import re

import pytest

from nnunetv2_clip.evaluation.report import write_page, write_tables
from nnunetv2_clip.evaluation.tables import Table
from nnunetv2_clip.pages import millilitres

TABLE = Table("A < B", ("Class", "<i>n</i>"), (("liver & <b>", "1"), ("mean", "2")), "note > 3", has_total=True)


def test_texts_are_escaped(tmp_path):
    write_page([TABLE], tmp_path, "page", "<script>", ["x < y"])
    text = (tmp_path / "page.html").read_text()
    for escaped in ("A &lt; B", "&lt;i&gt;n", "liver &amp; &lt;b&gt;", "note &gt; 3", "&lt;script&gt;", "x &lt; y"):
        assert escaped in text
    assert "<script" not in text


def test_pictures_and_style_are_in_the_page_and_nothing_is_loaded(tmp_path):
    write_tables([TABLE], tmp_path, "page", "Page", ["<svg><path/></svg>"])
    text = (tmp_path / "page.html").read_text()
    assert "<figure><svg><path/></svg></figure>" in text
    assert "border-collapse" in text
    assert not re.search(r"https?:|<link (?!rel=.icon. href=.data:)", text)


@pytest.mark.parametrize(("volume", "text"), [(1234.5, "1234"), (99.96, "100"), (15.27, "15.3"), (0.027, "0.027")])
def test_volumes_have_three_digits(volume, text):
    assert millilitres(volume) == text


@pytest.mark.parametrize("has_total", [False, True])
def test_the_sum_is_the_last_row(tmp_path, has_total):
    write_page([Table("T", ("a",), (("1",), ("2",)), has_total=has_total)], tmp_path, "page", "T", [])
    rows = re.findall(r"<tr.*?><td>\d</td></tr>", (tmp_path / "page.html").read_text())
    assert rows == ["<tr><td>1</td></tr>", '<tr class="total"><td>2</td></tr>' if has_total else "<tr><td>2</td></tr>"]
