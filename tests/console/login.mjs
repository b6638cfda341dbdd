// A host that needs tokens, at CONSOLE_TOKENS_URL; CONSOLE_TOKEN is the key of its administrator.

import assert from "node:assert/strict";
import { Api } from "./api.mjs";
import { until, withPage } from "./browser.mjs";

/** Refused requests are errors in the browser's console. */
const tolerates = ["401", "403"];

export async function login({ browser }) {
  const base = process.env.CONSOLE_TOKENS_URL;
  if (!base) throw new Error("CONSOLE_TOKENS_URL is not set");
  const admin = new Api(base, process.env.CONSOLE_TOKEN);
  await withPage(browser, base, { tolerates }, async ({ page, open }) => {
    await open("system/audit");
    await page.locator("input[name=token]").fill("pr_0123456789abcdef_wrong");
    await page.getByRole("button", { name: "Log in" }).click();
    await page.locator(".note >> text=Invalid credentials").waitFor();
    await page.locator("input[name=token]").fill(process.env.CONSOLE_TOKEN);
    await page.keyboard.press("Enter");
    // It leads to where the address says.
    await page.locator(".record").first().waitFor();
    assert.equal(await page.evaluate(() => document.cookie), "", "scripts can read the cookie");
    assert.equal(await page.evaluate(() => JSON.stringify(localStorage)), "{}");
    await page.reload();
    await page.locator(".record").first().waitFor();
    await page.getByRole("button", { name: "Log out" }).click();
    await page.locator("input[name=token]").waitFor();
  });
  await withPage(browser, base, { tolerates }, async ({ page, open }) => {
    const { id, token } = await admin.post("/keys", { principal: "reader", roles: ["read"] });
    await open("");
    await page.locator("input[name=token]").fill(token);
    await page.keyboard.press("Enter");
    const pause = page.getByRole("button", { name: "Pause" }).first();
    await pause.waitFor();
    assert.equal(await pause.getAttribute("aria-disabled"), "true");
    assert.match(await pause.getAttribute("title"), /operate/);
    await page.goto(`${base}/console/plugins/payment`);
    const compare = page.locator(".compare").getByRole("button", { name: "Compare" });
    await compare.waitFor();
    assert.equal(await compare.getAttribute("aria-disabled"), "true");
    await page.locator(".compare >> text=Needs the permission operate").waitFor();
    assert.ok(await page.locator("input[name=component]").isDisabled());
    await page.goto(`${base}/console/system/audit`);
    await page.locator("text=Not for you").waitFor();
    await page.goto(`${base}/console/`);
    await pause.waitFor();
    await admin.send("DELETE", `/keys/${id}`);
    await until("the revoked key to end the session", async () => {
      return (await page.locator("input[name=token]").count()) > 0;
    });
  });
}
