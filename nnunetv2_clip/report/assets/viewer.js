"use strict";

// The viewer: NiiVue on the volumes inside the page, opened on demand.
(() => {
  const section = document.getElementById("viewer");
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const at = (name) => section.querySelector(`[data-role="${name}"]`);
  const hidden = new Set();
  const AXES = { axial: 2, coronal: 1, sagittal: 0, "three planes": 2 }; // across which the slices are turned
  const STEPS = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 };
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

  const voxel = () => shown.frac2vox(shown.scene.crosshairPos);
  const axis = () => AXES[at("view").value];

  function turn(step) {
    shown.moveCrosshairInVox(...[0, 1, 2].map((one) => (one === axis() ? step : 0)));
  }

  function setWindow() {
    const [darkest, brightest] = data.windows[at("window").value];
    Object.assign(shown.volumes[0], { cal_min: darkest, cal_max: brightest });
    shown.updateGLVolume();
  }

  function setView() {
    const types = niivue.SLICE_TYPE;
    const type = { axial: types.AXIAL, coronal: types.CORONAL, sagittal: types.SAGITTAL }[at("view").value];
    shown.setSliceType(type ?? types.MULTIPLANAR);
    at("slice").max = shown.volumes[0].dimsRAS[axis() + 1] - 1;
    shown.createOnLocationChange();
  }

  // "R 93, A 159, S 163 mm · 56 HU · liver": sides of the patient, as radiologists name a place.
  function describe(place) {
    const sides = [["R", "L"], ["A", "P"], ["S", "I"]];
    const where = sides.map(([plus, minus], one) => {
      const mm = Math.round(place.mm[one]);
      return `${mm < 0 ? minus : plus} ${Math.abs(mm)}`;
    });
    const [ct, label] = place.values;
    const found = data.classes.find((entry) => entry.index === Math.round(label?.value ?? 0));
    const words = [`${where.join(", ")} mm`, `${Math.round(ct.value)} HU`, found?.name.replaceAll("_", " ")];
    at("place").textContent = words.filter(Boolean).join(" · ");
    at("slice").value = Math.round(place.vox[axis()]);
  }

  async function load() {
    const entry = data.cases[at("case").selectedIndex];
    at("reference").disabled = !entry.reference;
    if (!entry.reference && at("layer").value === "reference") at("layer").value = "prediction";
    message("Loading …");
    const volumes = [
      await niivue.NVImage.loadFromBase64({ base64: entry.ct, name: "ct.nii.gz", colormap: "gray" }),
    ];
    const layer = entry[at("layer").value];
    if (layer) volumes.push(await niivue.NVImage.loadFromBase64({ base64: layer, name: `${at("layer").value}.nii.gz` }));
    while (shown.volumes.length) shown.removeVolume(shown.volumes[0]);
    for (const volume of volumes) shown.addVolume(volume);
    if (focusOn !== entry.id) {
      at("window").value = entry.window;
      for (const box of boxes) box.parentNode.hidden = !entry.painted.includes(Number(box.value));
      shown.scene.crosshairPos = shown.mm2frac(entry.focus);
      focusOn = entry.id;
    }
    setWindow();
    setView();
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
      onLocationChange: describe,
    });
    await shown.attachToCanvas(at("canvas"));
    await load();
    at("canvas").focus();
  }

  function guarded(action) {
    return () => Promise.resolve(action()).catch((error) => message(`The viewer failed: ${error.message}`));
  }

  at("open").addEventListener("click", guarded(open));
  at("case").addEventListener("change", guarded(load));
  at("layer").addEventListener("change", guarded(load));
  at("view").addEventListener("change", setView);
  at("window").addEventListener("change", setWindow);
  at("opacity").addEventListener("input", recolor);
  at("slice").addEventListener("input", () => turn(Number(at("slice").value) - Math.round(voxel()[axis()])));
  at("canvas").addEventListener("keydown", (event) => {
    if (!STEPS[event.key]) return;
    event.preventDefault();
    turn(STEPS[event.key]);
  });
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
