// Bundles the console into dist/, which is committed and embedded in the host: `npm run build`.
// With `--tests` it bundles the unit tests into target/tests instead, for `node --test`.

import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import * as esbuild from "esbuild";

const root = dirname(fileURLToPath(import.meta.url));

/** All files below a folder, sorted by path. */
function files(folder) {
  const entries = readdirSync(join(root, folder), { withFileTypes: true, recursive: true });
  const paths = entries
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath ?? entry.path, entry.name)));
  return paths.map((path) => path.split(sep).join("/")).sort();
}

/**
 * A hash over everything that dist/ is made from. `http/console.rs` computes the same in a test: for
 * each file its path, a zero byte, its length, a zero byte and its bytes. The types of the API are left
 * out: they leave no trace in the script, and change with every description in the API's document.
 */
function hashOfSources() {
  const hash = createHash("sha256");
  const others = ["build.mjs", "package-lock.json", "package.json", "tsconfig.json"];
  const sources = files("src").filter((path) => path !== "src/api/schema.d.ts");
  for (const path of [...others, ...sources].sort()) {
    const bytes = readFileSync(join(root, path));
    hash.update(`${path}\0${bytes.length}\0`).update(bytes);
  }
  return hash.digest("hex");
}

const shared = {
  absWorkingDir: root,
  bundle: true,
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  logLevel: "warning",
};

async function tests() {
  rmSync(join(root, "target"), { recursive: true, force: true });
  const entryPoints = files("tests").filter((path) => path.endsWith(".test.ts"));
  const options = { ...shared, entryPoints, outdir: "target/tests", platform: "node" };
  await esbuild.build({ ...options, format: "esm" });
}

async function build() {
  const dist = join(root, "dist");
  rmSync(dist, { recursive: true, force: true });
  mkdirSync(dist);
  const options = { ...shared, outdir: "dist", minify: true, legalComments: "none" };
  await esbuild.build({ ...options, entryPoints: { console: "src/main.tsx" }, format: "iife" });
  const page = readFileSync(join(root, "src/index.html"), "utf8");
  writeFileSync(join(dist, "index.html"), page.replace("{sources}", hashOfSources()));
  writeFileSync(join(dist, "icon.svg"), readFileSync(join(root, "src/icon.svg")));
  for (const name of ["console.js", "console.css"]) {
    const bytes = readFileSync(join(dist, name));
    const zipped = gzipSync(bytes, { level: 9 }).length;
    console.log(`${name}: ${bytes.length} bytes, ${zipped} gzipped`);
  }
}

await (process.argv.includes("--tests") ? tests() : build());
