// Bundles NiiVue into ../assets/niivue.min.js (a global `niivue`), with the licences of all that is inside beside it.
import { existsSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";

const ALLOWED = new Set(["BSD-2-Clause", "BSD-3-Clause", "MIT", "ISC"]);
const ASSETS = "../assets";

const result = await build({
  entryPoints: ["entry.js"],
  bundle: true,
  minify: true,
  format: "iife",
  globalName: "niivue",
  target: "es2020",
  charset: "ascii",
  legalComments: "none",
  alias: { zarrita: "./left_out.js" },
  outfile: join(ASSETS, "niivue.min.js"),
  metafile: true,
});

function licenceText(folder, name) {
  const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
  if (file) return readFileSync(join(folder, file), "utf8").trim();
  if (name === "@niivue/niivue") return readFileSync("niivue_license.txt", "utf8").trim(); // not in its package
  throw new Error(`${name} brings no licence text`);
}

const bundled = Object.values(result.metafile.outputs).flatMap((output) => Object.keys(output.inputs));
const names = new Set(
  bundled.map((path) => path.match(/node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1]).filter(Boolean),
);
const parts = [...names].sort().map((name) => {
  const folder = join("node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  if (!ALLOWED.has(license)) throw new Error(`${name} has the licence ${license}`);
  return `${name} ${version} (${license})\n\n${licenceText(folder, name)}\n`;
});
if (!existsSync(ASSETS)) throw new Error("run this in nnunetv2_clip/report/viewer");
writeFileSync(
  join(ASSETS, "niivue.min.js.LICENSES.txt"),
  `niivue.min.js holds these packages.\n\n${parts.join(`\n${"-".repeat(80)}\n\n`)}`,
);
console.log([...names].sort().join("\n"));
