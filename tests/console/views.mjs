// Each view shows what the API says, has its own address, and can be reloaded there.

import assert from "node:assert/strict";
import { until, withPage } from "./browser.mjs";

/** Addresses, and what is to be seen there. */
export const VIEWS = [
  ["", "Pipeline", ".node >> text=payment"],
  ["pipeline/payment", "Pipeline", ".detail-head >> text=payment"],
  ["orders", "Orders", "a[data-row]"],
  ["orders/one", "Orders", ".lane >> text=shipping"],
  ["orders/a%3Ab%40c~", "Orders", ".lane >> text=payment"],
  ["orders?status=failed", "Orders", "a[data-row]"],
  ["events", "Events", "a[data-row]"],
  ["events/order-one", "Events", ".code >> text=Book"],
  ["dead-letters", "Dead letters", "a[data-row]"],
  ["dead-letters?view=letters", "Dead letters", "a[data-row]"],
  ["plugins", "Plugins", "a[data-row]"],
  ["plugins/payment", "Plugins", ".card >> text=serves"],
  ["system", "System", "text=Broker"],
  ["system/audit", "System", ".record"],
  ["system/limits", "System", "text=http.streams_max"],
  ["system/config", "System", "text=store.lease_ms"],
  ["system/chains", "System", "text=Chains of events"],
  ["system/keys", "System", "text=API keys"],
];

export async function views({ base, api, browser }) {
  await withPage(browser, base, {}, async ({ page, open }) => {
    for (const [path, title, sight] of VIEWS) {
      await open(path);
      await page.locator(sight).first().waitFor();
      assert.equal(await page.locator(".topbar h1").innerText(), title);
      assert.equal(await page.evaluate(() => window.violations.length), 0);
      const shift = await page.evaluate(() => window.shift);
      assert.ok(shift < 0.1, `${path} jumps: ${shift}`);
    }
    await showsOrder(page, open, api);
    await followsLinks(page, open);
    await showsWhatIsMissing(page, open);
  });
  await withPage(browser, base, {}, async ({ page, open }) => {
    await page.addInitScript(() => {
      new MutationObserver((_, observer) => {
        if (!document.querySelector(".node")) return;
        window.graphMs = performance.now();
        observer.disconnect();
      }).observe(document, { childList: true, subtree: true });
    });
    await open("");
    await page.locator(".node >> text=payment").first().waitFor();
    const [paint, graph] = await page.evaluate(() => [
      performance.getEntriesByName("first-contentful-paint")[0]?.startTime,
      window.graphMs,
    ]);
    console.error(`  first paint ${Math.round(paint)} ms, graph ${Math.round(graph)} ms`);
  });
}

async function showsOrder(page, open, api) {
  const order = await api.get("/orders/one");
  await open("orders/one");
  for (const { stage, event } of order.timeline) {
    const lane = page.locator(".lane", { hasText: stage }).filter({ hasText: event.type });
    await lane.first().waitFor();
  }
  assert.equal(await page.locator(".lane").count(), order.timeline.length);
  await page.locator(".lane summary").first().click();
  await page.locator(".lane-body >> text=emitted").first().waitFor();
  const host = page.locator(".lane-body .facts div", { hasText: "Host" }).first().locator("dd");
  assert.equal(await host.innerText(), order.timeline[0].host);
  await open("orders/digits");
  await page.locator("text=12345678901234567890.10").first().waitFor();
}

/** From an order over its event to its chain and back, without a page being loaded. */
async function followsLinks(page, open) {
  await open("orders/two");
  await page.evaluate(() => (window.same = true));
  await page.locator(".lane summary").first().click();
  await page.locator(".lane-body a", { hasText: "order-two" }).first().click();
  await page.locator(".detail-head >> text=order.created").waitFor();
  await page.getByRole("link", { name: "Its chain" }).click();
  await until("only the chain to be listed", async () => {
    const rows = await page.locator("a[data-row]").count();
    return rows > 0 && rows < 12;
  });
  await page.goBack();
  await page.goBack();
  await page.locator(".detail-head >> text=two").waitFor();
  assert.ok(await page.evaluate(() => window.same), "a page was loaded");
}

async function showsWhatIsMissing(page, open) {

  await open("orders?customer=nobody-at-all");
  await page.locator("text=No orders match").waitFor();
}
