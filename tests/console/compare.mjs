// A candidate, which is another build of payment, is compared with what was recorded. CONSOLE_CANDIDATE is its
// file: it declines what costs more than 50.

import assert from "node:assert/strict";
import { until, withPage } from "./browser.mjs";
import { inspect, LOOKS } from "./looks.mjs";

export async function compare(all) {
  const { base, api, browser, out } = all;
  const candidate = process.env.CONSOLE_CANDIDATE;
  if (!candidate) throw new Error("CONSOLE_CANDIDATE is not set");
  await api.order("dear", { total: 80 });
  // A refused request is an error in the browser's console.
  await withPage(browser, base, { tolerates: ["422"] }, async ({ page, open }) => {
    await until("the order to end", async () => (await api.get("/orders/dear")).status === "ready");
    await open("plugins/payment");
    await choose(page, { name: "notes.wasm", mimeType: "application/wasm", buffer: Buffer.from("no plugin") });
    await page.locator(".compare .note.bad >> text=not WebAssembly").waitFor();
    await comparesByKeyboard(page, candidate);
    await showsDifference(page, api);
  });
  for (const look of LOOKS) {
    await withPage(browser, base, look, async ({ page, open }) => {
      await open("plugins/payment");
      await choose(page, candidate);
      await page.locator(".tally").waitFor();
      await page.locator(".tally").scrollIntoViewIfNeeded();
      await inspect(page, look, "compare", out);
    });
  }
}

async function choose(page, file) {
  await page.locator("input[name=component]").setInputFiles(file);
  await page.locator(".compare").getByRole("button", { name: "Compare" }).click();
}

/** From the file over the period and the number to the button. */
async function comparesByKeyboard(page, candidate) {
  await page.locator("input[name=component]").setInputFiles(candidate);
  await page.locator("input[name=component]").focus();
  await page.keyboard.press("Tab");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Tab");
  await page.keyboard.type("2000");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.locator(".tally").waitFor();
  assert.equal(await page.locator(".compare select").inputValue(), "24h");
  assert.equal(await page.locator(".compare .note.bad").count(), 0, "the refusal is gone");
}

async function showsDifference(page, api) {
  const numbers = await page.locator(".tally dd").allInnerTexts();
  const [equal, different, unknown, failed] = numbers.map((text) => Number(text.replaceAll(",", "")));
  assert.ok(equal > 0 && different > 0, `${numbers}`);
  assert.deepEqual([unknown, failed], [0, 0]);
  assert.equal(await page.locator(".compare-event").count(), Math.min(different, 50));
  const event = page.locator(".compare-event", { hasText: "order/dear" });
  await event.locator(".diff .removed >> text=payment.authorized").waitFor();
  await event.locator(".diff .added >> text=payment.declined").waitFor();
  await event.getByRole("link", { name: "order.created" }).click();
  await page.locator(".detail-head >> text=order.created").waitFor();
  await page.goBack();
  // It is in the audit trail, and changed nothing.
  assert.equal((await api.get("/orders/dear")).status, "ready");
  const { items } = await api.get("/audit?action=plugin.compare&order=newest");
  assert.deepEqual([items[0].object, items[0].outcome], ["stage/payment", "done"]);
  assert.equal(items[1].outcome, "refused");
}
