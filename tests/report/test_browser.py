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
  const enlarged = document.querySelector("#zoom .frame").getBoundingClientRect();
  result.enlarged = [enlarged.width / enlarged.height, enlarged.width];
  const zoom = document.getElementById("zoom"), caption = () => zoom.querySelector("figcaption").textContent;
  const press = (element, key) => {  // tells whether the browser would do something of its own as well
    return element.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  };
  result.captions = [caption()];
  press(zoom, "ArrowRight"); result.captions.push(caption());
  press(zoom, "ArrowLeft"); press(zoom, "ArrowLeft"); result.captions.push(caption());
  result.byKey = ["Enter", " ", "x"].map((key) => {
    zoom.close();
    return [press(document.querySelector(".planes figure"), key), zoom.open];
  });
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


# Opens the viewer, switches all classes off and on, and shows the reference.
VIEWER_CHECK = """<script>
addEventListener("load", async () => {
  const section = document.getElementById("viewer");
  const at = (name) => section.querySelector(`[data-role="${name}"]`);
  const until = async (loaded) => {
    for (let turn = 0; turn < 100 && section.dataset.loaded !== loaded; turn++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    return section.dataset.loaded;
  };
  const colours = (name) => {  // drawn and read within one task, before the browser clears the canvas
    at(name).click();
    const canvas = at("canvas"), copy = document.createElement("canvas");
    [copy.width, copy.height] = [canvas.width, canvas.height];
    const context = copy.getContext("2d");
    context.drawImage(canvas, 0, 0);
    const pixels = context.getImageData(0, 0, copy.width, copy.height).data;
    let coloured = 0, lit = 0;
    for (let i = 0; i < pixels.length; i += 4) {
      lit += pixels[i] > 30;
      coloured += pixels[i + 1] > pixels[i] + 60 && pixels[i + 1] > pixels[i + 2] + 30;
    }
    return { coloured, lit };
  };
  const boxesShown = () => [...section.querySelectorAll("input[type=checkbox]")]
    .filter((box) => box.offsetParent).map((box) => box.parentNode.textContent);
  at("open").click();
  const result = { prediction: await until("case_a prediction") };
  result.on = colours("all"); result.off = colours("none");
  const key = (name) => {
    at("canvas").dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
    return at("place").textContent;
  };
  result.slices = [at("slice").max, at("slice").value, key("ArrowUp"), at("slice").value, key("ArrowDown")];
  result.window = [at("window").value, at("view").value];
  at("window").value = "bone";
  at("window").dispatchEvent(new Event("change"));
  result.listed = boxesShown();
  at("layer").value = "reference";
  at("layer").dispatchEvent(new Event("change"));
  result.reference = await until("case_a reference");
  result.truth = colours("all");
  result.message = at("message").textContent;
  result.errors = window.seen;
  const place = document.createElement("pre");
  place.id = "self-check";
  place.textContent = JSON.stringify(result);
  document.body.append(place);
});
</script>"""


def open_in_browser(page, tmp_path, check) -> dict:
    html = page.read_text(encoding="utf-8").replace("<head>", "<head>" + WATCH, 1)
    end = html.rindex("</body>")
    watched = tmp_path / "watched.html"
    watched.write_text(html[:end] + check + html[end:], encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--window-size=1400,900", f"--user-data-dir={tmp_path / 'profile'}"]
    drawing = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # WebGL without a GPU
    command = [CHROMIUM, *flags, *drawing, "--virtual-time-budget=20000", "--dump-dom", watched.as_uri()]
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
    seen = open_in_browser(tmp_path / "page.html", tmp_path, CHECK)
    assert seen["errors"] == []
    assert seen["first"] == ["case_b", "case_a", "case_0"]
    assert seen["descending"] == ["case_a", "case_b", "case_0"]
    assert seen["byCase"] == ["case_0", "case_a", "case_b"]
    assert seen["zoomed"] == 4  # CT and overlay, reference and prediction
    assert seen["enlarged"] == [pytest.approx(16 / 12, rel=0.02), pytest.approx(1400 * 0.92 / 2, rel=0.05)]
    assert [caption.split(" · ")[0] for caption in seen["captions"]] == ["axial", "coronal", "axial"]
    assert seen["byKey"] == [[False, True], [False, True], [True, False]]
    # case_a and case_b: overview and detail, case_0: overview; 3 planes x 2 sides x (CT, overlay); 4 enlarged
    assert (seen["pictures"], seen["broken"]) == ((2 + 2 + 1) * 3 * 2 * 2 + 4, 0)
    assert seen["ratio"] == pytest.approx(16 / 12, rel=0.02)  # 8 x 6 voxels of 2 mm
    assert not seen["overflow"]


def test_the_viewer_shows_classes_and_switches_them_off(study, tmp_path):
    options = ["-i", study.images, "-pred", study.predictions, "-ref", study.references, "-o", tmp_path / "page.html"]
    assert main(["report", "-np", "1", "--viewer", "1", *map(str, options)]) == 0
    seen = open_in_browser(tmp_path / "page.html", tmp_path, VIEWER_CHECK)
    assert seen["errors"] == []
    assert seen["message"] == ""
    assert (seen["prediction"], seen["reference"]) == ("case_a prediction", "case_a reference")
    # focus: in the true tumour, beside the predicted one, in slice 1 of 0 to 3; the slice above holds nothing
    assert seen["slices"] == ["3", "1", "R 6, A 4, S 10 mm · 40 HU", "2", "R 6, A 4, S 5 mm · 40 HU · liver"]
    assert seen["window"] == ["soft tissue", "axial"]
    assert seen["listed"] == ["liver", "liver tumor"]
    # the tumour is green: 2 voxels are predicted, 4 are in the reference, 8 x 6 x 4 voxels are drawn in grey
    assert seen["off"]["lit"] > 10_000
    assert seen["off"]["coloured"] == 0
    assert seen["truth"]["coloured"] > seen["on"]["coloured"] > 100
