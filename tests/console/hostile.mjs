// Data is text, whatever it contains, and the policy would stop what is not.

import assert from "node:assert/strict";
import { HOSTILE } from "./api.mjs";
import { until, withPage } from "./browser.mjs";

const tolerates = ["script-src", "style-src", "Content Security Policy", "connect-src"];

export async function hostile({ base, api, browser }) {
  const customer = encodeURIComponent(HOSTILE);
  // There is no order with such an id, which the browser reports.
  await withPage(browser, base, { tolerates: ["404"] }, async ({ page, open }) => {
    for (const path of [
      "orders",
      "orders/hostile",
      `orders?customer=${customer}`,
      `orders/${customer}`,
      "events?subject=order%2Fhostile",
      "events/order-hostile",
      "events?type=desk.note",
      `events/${customer}?from=${customer}`,
      `events?type=${customer}`,
      "plugins",
      `plugins/${encodeURIComponent(await hostilePlugin(api))}`,
      "",
    ]) {
      await open(path);
      await until("everything to be read", async () => (await page.locator(".skeleton").count()) === 0);
      assert.equal(await page.evaluate(() => window.pwned), undefined, path);
      assert.equal(await page.locator("#app img[src=x], #app script").count(), 0, path);
    }
    await open("orders/hostile");
    await until("the text to be shown as it is", async () => {
      return (await page.locator(".payload .code").last().innerText()).includes("<script>window.pwned=2");
    });
    await open("plugins");
    await page.locator("a[data-row]", { hasText: "<img src=x" }).waitFor();
  });
  await policyIsEnforced(base, browser);
}

/** The name of the plugin file that is no plugin. */
async function hostilePlugin(api) {
  const { items } = await api.get("/plugins");
  const found = items.find((one) => one.file?.includes("<img"));
  assert.ok(found, "the plugins folder has no file with a hostile name");
  return found.file;
}

async function policyIsEnforced(base, browser) {
  await withPage(browser, base, { tolerates }, async ({ page, open }) => {
    await open("");
    await page.evaluate(() => {
      const script = document.createElement("script");
      script.textContent = "window.pwned = 3";
      document.body.append(script);
      const holder = document.createElement("div");
      holder.innerHTML = '<p style="color: red" id="styled">x</p><img src="nothing" onerror="window.pwned=4">';
      document.body.append(holder);
      fetch("https://192.0.2.1/").catch(() => undefined);
    });
    await until("the violations to be reported", () =>
      page.evaluate(() => window.violations.length >= 3),
    );
    assert.equal(await page.evaluate(() => window.pwned), undefined);
    const colour = () => page.evaluate(() => document.getElementById("styled").style.color);
    assert.equal(await colour(), "");
  });
}
