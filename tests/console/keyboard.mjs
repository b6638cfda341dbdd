// Everything that is often done can be done with the keyboard.

import assert from "node:assert/strict";
import { until, withPage } from "./browser.mjs";

export async function keyboard({ base, browser }) {
  await withPage(browser, base, {}, async ({ page, open }) => {
    await open("");
    const path = () => new URL(page.url()).pathname.replace("/console/", "");
    const focused = () => page.evaluate(() => document.activeElement?.textContent ?? "");
    for (const [key, view] of [
      ["o", "orders"],
      ["e", "events"],
      ["d", "dead-letters"],
      ["l", "plugins"],
      ["s", "system"],
      ["p", ""],
    ]) {
      await page.keyboard.press("g");
      await page.keyboard.press(key);
      await until(`g ${key} to lead to ${view}`, () => path() === view);
    }
    await page.keyboard.press("/");
    await until("/ to lead to the search", () =>
      page.evaluate(() => document.activeElement?.matches("[data-search]") ?? false),
    );
    await page.keyboard.type("two");
    await page.keyboard.press("Enter");
    await page.locator(".detail-head >> text=two").waitFor();
    await page.keyboard.press("Escape");
    await page.keyboard.press("Escape");
    await until("Escape to close the order", () => path() === "orders");

    await page.locator("a[data-row]").nth(2).waitFor();
    await page.keyboard.press("j");
    const first = await focused();
    await page.keyboard.press("j");
    assert.notEqual(await focused(), first);
    await page.keyboard.press("k");
    assert.equal(await focused(), first);
    await page.keyboard.press("Enter");
    await page.locator(".detail-head", { hasText: first }).waitFor();
    // With an order open, j shows the next one.
    await page.keyboard.press("j");
    await until("j to open the next order", async () => {
      return !(await page.locator(".detail-head h2").innerText()).includes(first);
    });

    await page.keyboard.press("?");
    await page.locator("dialog[open] >> text=Keyboard").waitFor();
    await page.keyboard.press("Escape");
    await page.locator("dialog[open]").waitFor({ state: "detached" });
    await page.keyboard.press("t");
    assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "dark");
    await page.reload();
    await page.locator(".topbar h1").waitFor();
    assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "dark");
  });
}
