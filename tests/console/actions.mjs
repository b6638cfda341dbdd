// Each action does what it says, and the console shows what came of it.

import assert from "node:assert/strict";
import { until, withPage } from "./browser.mjs";

export async function actions(all) {
  const { base, browser } = all;
  await withPage(browser, base, {}, async (session) => {
    await controlsStage(all, session);
    await cancelsOrder(all, session);
    await replaysOne(all, session);
    await editsOne(all, session);
    await discardsOne(all, session);
    await countsMatching(all, session);
    await replaysGroup(all, session);
    await rollsBack(all, session);
    await closesBreaker(all, session);
    await controlsChain(all, session);
  });
}

async function controlsStage({ api }, { page, open }) {
  const state = async () => (await api.get("/stages")).items.find((one) => one.stage === "shipping").control;
  await open("pipeline/shipping");
  for (const [button, reason, control] of [
    ["Pause", "the carrier is closed", "paused"],
    ["Resume", "", "running"],
    ["Drain", "", "draining"],
    ["Resume", "", "running"],
  ]) {
    await page.locator(".detail-head").getByRole("button", { name: button }).click();
    if (reason) await page.locator("dialog input[name=reason]").fill(reason);
    await page.locator("dialog").getByRole("button", { name: button }).click();
    await until(`shipping to be ${control}`, async () => (await state()) === control);
    await page.locator(".split-detail .status", { hasText: control }).first().waitFor();
    if (reason) await page.locator(".note", { hasText: reason }).waitFor();
  }
}

async function cancelsOrder({ api }, { page, open }) {
  await open("orders/cancel-me");
  await page.getByRole("button", { name: "Cancel" }).click();
  await page.locator("dialog input[name=reason]").fill("changed my mind");
  await page.locator("dialog").getByRole("button", { name: "Cancel order" }).click();
  await until("the order to be cancelled", async () => {
    return (await api.get("/orders/cancel-me")).status === "cancelled";
  });
  await page.locator(".detail-body .status", { hasText: "cancelled" }).waitFor();
  await open("system/audit");
  const record = page.locator(".record", { hasText: "subject.cancel" }).first();
  await record.locator("summary").click();
  await record.locator("text=changed my mind").waitFor();
}

async function letterOf(api, id, status = "open") {
  const { items } = await api.get(`/dead-letters?subject=order/${id}&status=${status}`);
  return items[0]?.id;
}

async function replaysOne({ api }, { page, open }) {
  await open(`dead-letters/${await letterOf(api, "replay-me")}?view=letters`);
  await page.locator(".detail-head").getByRole("button", { name: "Replay" }).click();
  await page.locator("dialog").getByRole("button", { name: "Replay" }).click();
  // The order still asks for a failure: the console must not call this a success.
  await page.locator(".note >> text=failed again").waitFor();
}

async function editsOne({ api }, { page, open }) {
  const letter = await letterOf(api, "digits");
  await open(`dead-letters/${letter}?view=letters`);
  await page.locator(".detail-head").getByRole("button", { name: "Edit" }).click();
  const body = page.locator("dialog textarea[name=body]");
  const before = await body.inputValue();
  await body.fill("{");
  assert.ok(await page.locator("dialog button.primary").isDisabled(), "no JSON is not sent");
  await body.fill(before.replace('"force_fail": true', '"force_fail": false'));
  await page.locator(".diff .removed >> text=true").waitFor();
  await page.locator(".diff .added >> text=false").waitFor();
  await page.locator("dialog").getByRole("button", { name: "Replay edited" }).click();
  await page.locator(".note >> text=succeeded").waitFor();
  const { items } = await api.get("/events?subject=order/digits");
  const response = await fetch(`${api.base}/events?subject=order/digits`);
  assert.ok((await response.text()).includes("12345678901234567890.10"), "a number lost digits");
  assert.ok(items.length > 1);
}

async function discardsOne({ api }, { page, open }) {
  const letter = await letterOf(api, "discard-me");
  await open(`dead-letters/${letter}?view=letters`);
  await page.locator(".detail-head").getByRole("button", { name: "Discard" }).click();
  await page.locator("dialog input[name=reason]").fill("a test order");
  await page.locator("dialog").getByRole("button", { name: "Discard" }).click();
  await page.locator(".note >> text=a test order").waitFor();
  assert.equal((await api.get(`/dead-letters/${letter}`)).status, "discarded");
}

/** The number comes first, and nothing happens before it is confirmed. */
async function countsMatching({ api }, { page, open }) {
  const letter = await letterOf(api, "replay-me");
  await open("dead-letters?view=letters&subject=order/replay-me");
  await page.locator("a[data-row]").first().waitFor();
  await page.getByRole("button", { name: "Replay matching" }).click();
  await until("the count to be shown", async () => (await page.locator(".big-number").innerText()) === "1");
  await page.locator("dialog .prose", { hasText: "of order/replay-me" }).waitFor();
  await page.locator("dialog").getByRole("button", { name: "Close" }).last().click();
  assert.equal((await api.get(`/dead-letters/${letter}`)).status, "open");
}

/** The patch lets every order of the group through. */
async function replaysGroup({ api }, { page, open }) {
  await open("dead-letters?stage=payment&code=simulated-failure");
  await page.locator("a[data-row]").first().click();
  await page.locator(".crumbs >> text=simulated-failure").waitFor();
  await page.getByRole("button", { name: "Replay matching" }).click();
  const groups = await api.get("/dead-letters/groups?stage=payment&code=simulated-failure&status=open");
  const open_ = groups.items.reduce((sum, one) => sum + one.open, 0);
  await until("the count to be shown", async () => {
    return (await page.locator(".big-number").innerText()) === open_.toLocaleString("en-US");
  });
  await page.locator("dialog textarea").fill('{"force_fail": null}');
  await page.locator("dialog input[type=number]").fill("500");
  await page.locator("dialog button[type=submit]").click();
  await page.locator("dialog .status", { hasText: "done" }).waitFor();
  await page.locator("dialog .results >> text=succeeded").waitFor();
  await page.locator("dialog").getByRole("button", { name: "Close" }).last().click();
}

/** `upgrade` puts another version of payment into the plugins folder. */
async function rollsBack({ api, command }, { page, open }) {
  const serving = async () => {
    return (await api.get("/plugins")).items.find((one) => one.stage === "payment").digest;
  };
  const before = await serving();
  await command("upgrade");
  await until("the other version to serve", async () => (await serving()) !== before);
  await open("plugins/payment");
  const load = page.locator(".card tr", { hasText: before.slice(0, 8) });
  await load.getByRole("button", { name: "Roll back" }).click();
  await page.locator("dialog input[name=reason]").fill("it declines too many");
  await page.locator("dialog").getByRole("button", { name: "Roll back" }).click();
  await until("the version before to serve", async () => (await serving()) === before);
  await load.locator("text=serves").waitFor();
  assert.equal(await page.locator(".card tr >> text=serves").count(), 1);
  await page
    .locator(".note", { hasText: "Rolled back" })
    .filter({ hasText: "it declines too many" })
    .first()
    .waitFor();
}

/** Payment's breaker takes `simulated-failure` for an outage if enough orders fail so. */
async function closesBreaker({ api }, { page, open }) {
  const orders = Array.from({ length: 20 }, (_, at) => `outage-${at}`);
  for (const id of orders) await api.order(id, { force_fail: true });
  const stage = async () => (await api.get("/stages")).items.find((one) => one.stage === "payment");
  await until("the breaker to open", async () => (await stage()).breaker === "open");
  await open("pipeline/payment");
  const facts = page.locator(".split-detail .facts");
  await facts.locator("dd", { hasText: (await stage()).breaker_reason }).waitFor();
  // It is among what needs attention, too.
  await page.locator(".note", { hasText: "payment" }).filter({ hasText: "breaker" }).first().waitFor();
  await page.locator(".detail-head").getByRole("button", { name: "Close breaker" }).click();
  await page.locator("dialog").getByRole("button", { name: "Close breaker" }).click();
  await until("the breaker to close", async () => (await stage()).breaker === "closed");
  await page.locator(".detail-head").getByRole("button", { name: "Close breaker" }).waitFor({ state: "detached" });
  for (const id of orders) {
    await until(`${id} to be processed`, async () => (await api.get(`/orders/${id}`)).status === "failed");
  }
}

/** Its chain is stopped while shipping is paused, so shipping never prepares the order. */
async function controlsChain({ api }, { page, open }) {
  await api.post("/stages/shipping/pause");
  await api.order("chained");
  const chain = (await api.get("/events?subject=order/chained")).items[0].correlation_id;
  const found = async () => (await api.get("/chains")).items.find((one) => one.correlation_id === chain);
  await until("the chain to be large", async () => (await found()) !== undefined);
  await open("system/chains");
  const row = page.locator("tr", { hasText: chain });
  await row.getByRole("button", { name: "Stop" }).click();
  await page.locator("dialog input[name=reason]").fill("it loops");
  await page.locator("dialog").getByRole("button", { name: "Stop" }).click();
  await row.locator(".status", { hasText: "stopped" }).waitFor();
  await row.locator("text=it loops").waitFor();
  assert.equal((await found()).state, "stopped");
  await api.post("/stages/shipping/resume");
  await until("the delivery to be skipped", async () => {
    const { timeline } = await api.get("/orders/chained");
    return timeline.some((one) => one.stage === "shipping" && one.status === "skipped");
  });
  await row.getByRole("button", { name: "Resume" }).click();
  await page.locator("dialog").getByRole("button", { name: "Resume" }).click();
  await until("the chain to be resumed", async () => (await found())?.state !== "stopped");
  await row.locator(".status", { hasText: "stopped" }).waitFor({ state: "detached" });
}
