// The trace of an order: its id, which can be copied, and a link if the host knows where traces are shown. The
// host at CONSOLE_URL does (`http.console.trace_url`), the one at CONSOLE_TOKENS_URL does not.

import assert from "node:assert/strict";
import { Api } from "./api.mjs";
import { until, withPage } from "./browser.mjs";

export async function trace({ base, api, browser }) {
  await withPage(browser, base, {}, async ({ page, open, context }) => {
    await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: base });
    const id = await traceOf(api, "one");
    await open("orders/one");
    const shown = page.locator(".detail-body .trace", { hasText: id });
    await shown.getByRole("button", { name: "Copy" }).click();
    await until("the id to be copied", async () => {
      return (await page.evaluate(() => navigator.clipboard.readText())) === id;
    });
    const link = shown.getByRole("link", { name: "Open" });
    assert.equal(await link.getAttribute("href"), `https://jaeger.example/trace/${id}`);
    assert.equal(await link.getAttribute("target"), "_blank");
    await open("events/order-one");
    assert.equal(await page.locator(".trace a").getAttribute("href"), `https://jaeger.example/trace/${id}`);
  });
  await withoutTemplate(browser);
}

async function withoutTemplate(browser) {
  const base = process.env.CONSOLE_TOKENS_URL;
  if (!base) throw new Error("CONSOLE_TOKENS_URL is not set");
  const admin = new Api(base, process.env.CONSOLE_TOKEN);
  await admin.order("untraced");
  const id = await traceOf(admin, "untraced");
  // Before the log-in, requests are refused.
  await withPage(browser, base, { tolerates: ["401"] }, async ({ page, open }) => {
    await open("orders/untraced");
    await page.locator("input[name=token]").fill(process.env.CONSOLE_TOKEN);
    await page.keyboard.press("Enter");
    await page.locator(".trace", { hasText: id }).waitFor();
    assert.equal(await page.locator(".trace a").count(), 0);
  });
}

/** The id of an order's trace, as its first event has it. */
async function traceOf(api, order) {
  const { items } = await api.get(`/events?subject=order/${order}`);
  return items[0].attributes.traceparent.split("-")[1];
}
