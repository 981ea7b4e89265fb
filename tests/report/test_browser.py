"""The page in headless Chromium: every picture loads, tables sort, pictures enlarge, the console stays silent."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from nnunetv2_clip.cli import main

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")

WATCH = """<script>
window.seen = [];
addEventListener("error", (event) => seen.push(String(event.message || event.target.outerHTML.slice(0, 80))), true);
addEventListener("unhandledrejection", (event) => seen.push(String(event.reason)));
for (const kind of ["error", "warn"]) console[kind] = (...words) => seen.push(words.join(" "));
</script>"""
# Sorting "Mean" twice turns ascending into descending; the case without a mean stays last.
CHECK = """<script>
addEventListener("load", () => {
  const order = () => [...document.querySelectorAll("#dice-table tbody th")].map((cell) => cell.textContent);
  const click = (text) => [...document.querySelectorAll("#dice-table thead th")]
    .find((head) => head.textContent === text).click();
  const result = { first: order() };
  click("Mean"); result.descending = order();
  click("Case"); result.byCase = order();
  document.querySelector(".planes figure").click();
  result.zoomed = document.getElementById("zoom").open && document.querySelectorAll("#zoom img").length;
  const pictures = [...document.images];
  result.pictures = pictures.length;
  result.broken = pictures.filter((picture) => !picture.complete || !picture.naturalWidth).length;
  const frame = document.querySelector(".frame").getBoundingClientRect();
  result.ratio = frame.width / frame.height;
  result.overflow = document.documentElement.scrollWidth > innerWidth;
  result.errors = window.seen;
  const place = document.createElement("pre");
  place.id = "self-check";
  place.textContent = JSON.stringify(result);
  document.body.append(place);
});
</script>"""


def open_in_browser(page, tmp_path) -> dict:
    html = page.read_text(encoding="utf-8")
    watched = tmp_path / "watched.html"
    watched.write_text(html.replace("<head>", "<head>" + WATCH).replace("</body>", CHECK + "</body>"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [CHROMIUM, *flags, "--window-size=1400,900", "--virtual-time-budget=8000", "--dump-dom", watched.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<pre id="self-check">(.*?)</pre>', dom, re.S)
    assert found, f"the check did not run:\n{dom[-2000:]}"
    return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def test_the_page_works_in_a_browser(study, tmp_path):
    content = json.loads((study.raw / "label_presence.json").read_text())
    content["cases"]["case_b"]["annotated"] = ["liver"]  # not there: Dice 0
    content["cases"]["case_0"] = {"dataset": "msd_spleen", "annotated": ["spleen"]}  # both empty: no Dice
    (study.raw / "label_presence.json").write_text(json.dumps(content))
    for folder, suffix in ((study.images, "_0000"), (study.predictions, ""), (study.references, "")):
        (folder / f"case_0{suffix}.nii.gz").write_bytes((folder / f"case_b{suffix}.nii.gz").read_bytes())
    options = ["-i", study.images, "-pred", study.predictions, "-ref", study.references, "-o", tmp_path / "page.html"]
    assert main(["report", "-np", "1", *map(str, options)]) == 0
    seen = open_in_browser(tmp_path / "page.html", tmp_path)
    assert seen["errors"] == []
    assert seen["first"] == ["case_b", "case_a", "case_0"]
    assert seen["descending"] == ["case_a", "case_b", "case_0"]
    assert seen["byCase"] == ["case_0", "case_a", "case_b"]
    assert seen["zoomed"] == 4  # CT and overlay, reference and prediction
    # case_a and case_b: overview and detail, case_0: overview; 3 planes x 2 sides x (CT, overlay); 4 enlarged
    assert (seen["pictures"], seen["broken"]) == ((2 + 2 + 1) * 3 * 2 * 2 + 4, 0)
    assert seen["ratio"] == pytest.approx(16 / 12, rel=0.02)  # 8 x 6 voxels of 2 mm
    assert not seen["overflow"]
