// Each view in both themes, on wide and narrow screens: axe-core finds nothing to complain about, nothing
// is wider than the screen, and a picture is made for people to look at.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { withPage } from "./browser.mjs";
import { VIEWS } from "./views.mjs";

const source = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** The other theme has other colours and nothing else. */
const COLOURS = ["color-contrast"];
export const LOOKS = [
  { width: 1440, height: 900, colorScheme: "light", rules: null },
  { width: 360, height: 780, colorScheme: "light", rules: null },
  { width: 1440, height: 900, colorScheme: "dark", rules: COLOURS },
  { width: 360, height: 780, colorScheme: "dark", rules: COLOURS },
];

export async function looks({ base, browser, out }) {
  for (const look of LOOKS) {
    await withPage(browser, base, look, async ({ page, open }) => {
      await open("");
      for (const [path, , sight] of VIEWS) {
        await go(page, path);
        await page.locator(sight).first().waitFor({ state: "attached" });
        await inspect(page, look, path || "pipeline", out);
      }
      await go(page, "dead-letters?view=letters");
      await page.locator(".topbar button", { hasText: "Replay" }).click();
      await page.locator("dialog[open]").waitFor();
      await inspect(page, look, "replay-dialog", out);
      await page.keyboard.press("Escape");
      await page.locator("a[data-row]").first().click();
      await page.getByRole("button", { name: "Edit" }).click();
      await page.locator("dialog[open] textarea").fill('{"changed": true}');
      await page.locator(".diff").waitFor();
      await inspect(page, look, "editor", out);
    });
  }
}

/** Goes to another view as the console does, without loading a page. */
async function go(page, path) {
  await page.evaluate((to) => {
    history.pushState(null, "", to);
    dispatchEvent(new PopStateEvent("popstate"));
  }, `/console/${path}`);
}

export async function inspect(page, { width, colorScheme, rules }, where, out) {
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(overflow <= width, `${where} is ${overflow} wide on a screen of ${width}`);
  const name = where.replace(/[^a-z0-9]+/gi, "-");
  await page.screenshot({ path: `${out}/${name}-${colorScheme}-${width}.png` });
  await page.evaluate(source);
  const options = { resultTypes: ["violations"], ...(rules ? { runOnly: rules } : {}) };
  const { violations } = await page.evaluate((chosen) => window.axe.run(document, chosen), options);
  const found = violations.map(({ id, nodes }) => {
    return `${id}: ${nodes.map((node) => `${node.html.slice(0, 160)} ${node.failureSummary}`).join("\n")}`;
  });
  assert.deepEqual(found, [], `${where} ${width} ${colorScheme}`);
}
