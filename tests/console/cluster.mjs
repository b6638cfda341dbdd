// A console that one of two hosts serves shows what runs on both, and controls a stage of the other one. Only
// with CONSOLE_REMOTE_STAGE: the stage, which runs on the host that does not serve the console.

import assert from "node:assert/strict";
import { until, withPage } from "./browser.mjs";

export async function cluster({ base, api, browser }) {
  const stage = process.env.CONSOLE_REMOTE_STAGE;
  if (!stage) return;
  const { items, answered_by: own } = await api.get("/hosts");
  const others = items.filter((one) => one.host !== own);
  assert.equal(others.length, 1);
  const remote = others[0].host;
  const status = async () => (await api.get("/stages")).items.find((one) => one.stage === stage);
  assert.deepEqual((await status()).hosts.map((one) => one.host), [remote]);
  await withPage(browser, base, {}, async ({ page, open }) => {
    await open("system");
    await page.locator("tr", { hasText: remote }).filter({ hasText: stage }).first().waitFor();
    await page.locator("tr", { hasText: own }).filter({ hasText: "this one" }).first().waitFor();
    await open(`plugins/${stage}`);
    await page.locator(".detail-body tr", { hasText: remote }).first().waitFor();
    await open("");
    await page.locator(`.node >> text=${stage}`).first().waitFor();
    await open(`pipeline/${stage}`);
    const there = page.locator(".facts > div", { hasText: remote });
    for (const [button, control] of [
      ["Pause", "paused"],
      ["Resume", "running"],
    ]) {
      await page.locator(".detail-head").getByRole("button", { name: button }).click();
      await page.locator("dialog").getByRole("button", { name: button }).click();
      await until(`${remote} to follow`, async () => (await status()).hosts[0].control === control);
      await there.locator(".status", { hasText: control }).waitFor();
    }
  });
}
