// The host ends and starts again while the console is open: it says so, reconnects, and misses nothing.

import assert from "node:assert/strict";
import { until, withPage } from "./browser.mjs";

/** What a browser reports while no host answers. */
const tolerates = ["Failed to load resource", "ERR_", "net::", "503"];

export async function restart({ base, api, browser, command }) {
  await withPage(browser, base, { tolerates }, async ({ page, open }) => {
    await open("events?type=order.created");
    await page.locator(".live >> text=Live").waitFor();
    await api.order("before-restart");
    await page.locator("tr", { hasText: "order/before-restart" }).waitFor();
    await command("stop");
    await page.locator(".banner >> text=does not answer").waitFor();
    await command("start");
    // The page is not connected yet: these must not be missed.
    for (let at = 0; at < 5; at += 1) await api.order(`after-restart-${at}`);
    for (let at = 0; at < 5; at += 1) {
      await page.locator("tr", { hasText: `order/after-restart-${at}` }).waitFor();
    }
    await page.locator(".banner").waitFor({ state: "detached" });
    await until("the stream to be live", async () => (await page.locator(".live >> text=Live").count()) > 0);
    const rows = await page.locator("a[data-row]").evaluateAll((all) => all.map((one) => one.href));
    assert.equal(new Set(rows).size, rows.length, "an event is listed twice");
  });
}
