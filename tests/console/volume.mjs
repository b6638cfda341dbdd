// Ten thousand orders and a thousand dead letters are no problem.

import assert from "node:assert/strict";
import { until, withPage } from "./browser.mjs";

export async function volume({ base, api, browser }) {
  await withPage(browser, base, {}, async ({ page, open }) => {
    await open("orders");
    await page.locator("a[data-row]").first().waitFor();
    const list = page.locator(".split-list");
    const rows = () => page.locator("a[data-row]").count();
    for (let wanted = 200; wanted <= 600; wanted += 100) {
      await list.evaluate((element) => element.scrollTo(0, element.scrollHeight));
      await until(`${wanted} orders`, async () => (await rows()) >= wanted);
    }
    // The oldest is as near as the newest.
    await page.keyboard.press("/");
    await page.keyboard.type("bulk-1");
    await page.keyboard.press("Enter");
    await page.locator(".detail-head >> text=bulk-1").waitFor();

    await open("dead-letters?code=bulk");
    await page.locator("a[data-row]").first().click();
    await until("a page of letters", async () => (await rows()) >= 100);
    await page.getByRole("button", { name: "Discard" }).click();
    const counted = (await api.get("/dead-letters/groups?code=bulk&status=open")).items[0].open;
    assert.ok(counted >= 1_000, String(counted));
    await until("the count to be shown", async () => {
      return (await page.locator(".big-number").innerText()) === counted.toLocaleString("en-US");
    });
    await page.locator("dialog input[type=number]").fill("10000");
    await page.locator("dialog input[type=text]").fill("made by a test");
    await page.locator("dialog button[type=submit]").click();
    await page.locator("dialog .progress").waitFor();
    await page.locator("dialog .status", { hasText: "done" }).waitFor();
    assert.equal((await api.get("/dead-letters/groups?code=bulk&status=open")).items.length, 0);
  });
}
