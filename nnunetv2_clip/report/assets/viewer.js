"use strict";

// The viewer: NiiVue on the volumes inside the page, opened on demand.
(() => {
  const section = document.getElementById("viewer");
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const at = (name) => section.querySelector(`[data-role="${name}"]`);
  const hidden = new Set();
  let shown = null;
  let focusOn = null; // the case whose first view was set: another layer keeps the cross-hair

  function message(text) {
    at("message").textContent = text;
  }

  // Label colours of NiiVue: one entry per class, alpha 0 where a class is switched off.
  function colormap() {
    const entries = [{ index: 0, name: "", color: [0, 0, 0] }, ...data.classes];
    return {
      R: entries.map((entry) => entry.color[0]),
      G: entries.map((entry) => entry.color[1]),
      B: entries.map((entry) => entry.color[2]),
      A: entries.map((entry) => (entry.index === 0 || hidden.has(entry.index) ? 0 : 255)),
      I: entries.map((entry) => entry.index),
      labels: entries.map((entry) => entry.name),
    };
  }

  function recolor() {
    if (!shown || shown.volumes.length < 2) return;
    shown.volumes[1].setColormapLabel(colormap());
    shown.setOpacity(1, Number(at("opacity").value) / 100);
    shown.updateGLVolume();
  }

  async function load() {
    const entry = data.cases[at("case").selectedIndex];
    at("reference").disabled = !entry.reference;
    if (!entry.reference && at("layer").value === "reference") at("layer").value = "prediction";
    message("Loading …");
    const volumes = [
      await niivue.NVImage.loadFromBase64({
        base64: entry.ct, name: "ct.nii.gz", colormap: "gray", cal_min: data.window[0], cal_max: data.window[1],
      }),
    ];
    const layer = entry[at("layer").value];
    if (layer) volumes.push(await niivue.NVImage.loadFromBase64({ base64: layer, name: `${at("layer").value}.nii.gz` }));
    while (shown.volumes.length) shown.removeVolume(shown.volumes[0]);
    for (const volume of volumes) shown.addVolume(volume);
    if (focusOn !== entry.id) {
      shown.scene.crosshairPos = shown.mm2frac(entry.focus);
      focusOn = entry.id;
    }
    recolor();
    shown.drawScene();
    message("");
    section.dataset.loaded = `${entry.id} ${at("layer").value}`;
  }

  async function open() {
    if (!document.createElement("canvas").getContext("webgl2")) {
      message("This browser offers no WebGL 2, which the viewer needs. The pictures below need none.");
      return;
    }
    at("open").hidden = true;
    at("panel").hidden = false;
    shown = new niivue.Niivue({
      backColor: [0, 0, 0, 1],
      dragAndDropEnabled: false,
      isRadiologicalConvention: true,
      isColorbar: false,
      crosshairWidth: 0.3,
      sagittalNoseLeft: true,
      loadingText: "",
      multiplanarShowRender: niivue.SHOW_RENDER.NEVER,
      onLocationChange: (place) => {
        at("place").textContent = place.string;
      },
    });
    await shown.attachToCanvas(at("canvas"));
    shown.setSliceType(niivue.SLICE_TYPE.MULTIPLANAR);
    await load();
  }

  function guarded(action) {
    return () => Promise.resolve(action()).catch((error) => message(`The viewer failed: ${error.message}`));
  }

  at("open").addEventListener("click", guarded(open));
  at("case").addEventListener("change", guarded(load));
  at("layer").addEventListener("change", guarded(load));
  at("opacity").addEventListener("input", recolor);
  const boxes = [...section.querySelectorAll("input[type=checkbox]")];
  function toggle(box) {
    if (box.checked) hidden.delete(Number(box.value));
    else hidden.add(Number(box.value));
  }
  for (const box of boxes) {
    box.addEventListener("change", () => {
      toggle(box);
      recolor();
    });
  }
  for (const [role, on] of [["all", true], ["none", false]]) {
    at(role).addEventListener("click", () => {
      for (const box of boxes) {
        box.checked = on;
        toggle(box);
      }
      recolor();
    });
  }
})();
