"""docs/datasets.md names every source as it is, and names only sources that exist."""

import re
from pathlib import Path

from nnunetv2_clip.dataset_conversion.registry import all_sources

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")


def test_every_source_has_its_line_and_its_download_page():
    for source in all_sources().values():
        assert re.search(rf"\b{source.name}=", TEXT), source.name
        page = source.url.replace("https://github.com/neheller/kits21", "`kits21`")
        page = page.replace("https://github.com/neheller/kits23", "`kits23`")
        assert page in TEXT, source.url


def test_every_source_that_is_named_exists():
    named = set(re.findall(r"--source (\w+)=", TEXT)) - {"custom"}
    assert named <= set(all_sources())
