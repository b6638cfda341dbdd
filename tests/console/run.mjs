// Drives the console in a browser. The host under test is at CONSOLE_URL, with the shipped stages and one
// attempt for each message, and `bulk-1` to `bulk-10000` among its orders. The program that runs this answers lines
// on the standard output by a line on the input: `stop` and `start` are about the host, `upgrade` about payment.
//
//   CONSOLE_URL=http://127.0.0.1:8000 node run.mjs [part of a check's name]

import { mkdirSync } from "node:fs";
import { createInterface } from "node:readline";
import { actions } from "./actions.mjs";
import { Api } from "./api.mjs";
import { launch } from "./browser.mjs";
import { cluster } from "./cluster.mjs";
import { compare } from "./compare.mjs";
import { hostile } from "./hostile.mjs";
import { keyboard } from "./keyboard.mjs";
import { looks } from "./looks.mjs";
import { login } from "./login.mjs";
import { prefix } from "./prefix.mjs";
import { restart } from "./restart.mjs";
import { seed } from "./seed.mjs";
import { trace } from "./trace.mjs";
import { views } from "./views.mjs";
import { volume } from "./volume.mjs";

const base = process.env.CONSOLE_URL;
const out = process.env.CONSOLE_OUT ?? "shots";
mkdirSync(out, { recursive: true });

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
/** Asks for something to be done to the host. */
async function command(name) {
  console.log(name);
  const { done } = await lines.next();
  if (done) throw new Error(`no answer to \`${name}\``);
}

const checks = {
  views, keyboard, hostile, looks, prefix, login, trace, compare, actions, restart, volume, cluster,
};
const part = process.argv[2] ?? "";
// Looks depend on nothing that differs between back ends.
const skipped = process.env.CONSOLE_SKIP ?? "-";
const wanted = Object.entries(checks).filter(([name]) => name.includes(part) && name !== skipped);
const api = new Api(base);
const browser = await launch();
try {
  if (process.env.CONSOLE_SEED !== "0") await seed(api);
  for (const [name, check] of wanted) {
    const began = Date.now();
    await check({ base, api, browser, out, command });
    console.error(`${name}: ${((Date.now() - began) / 1000).toFixed(1)} s`);
  }
} catch (error) {
  console.error(error);
  process.exitCode = 1;
}
await browser.close();
process.exit();
