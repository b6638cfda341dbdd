// A browser with one page at a time, which notices everything that must not happen: errors in the page,
// violations of its policy, requests to other places, and layout that jumps.

import assert from "node:assert/strict";
import { chromium } from "playwright-core";

/** Longest wait for a condition: other tests may keep the machine busy. */
export const PATIENCE_MS = 30_000;

/** Starts Debian's Chromium. */
export async function launch() {
  const executablePath = process.env.CONSOLE_BROWSER ?? "/usr/bin/chromium";
  // As root there is no sandbox; the pages are our own.
  return chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
}

/** Runs in the page, before its scripts. */
function watch() {
  window.violations = [];
  window.shift = 0;
  document.addEventListener("securitypolicyviolation", (event) => {
    window.violations.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sample}`);
  });
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
}

/** Opens a page, runs `steps` with it, and checks that nothing forbidden happened. */
export async function withPage(browser, base, options, steps) {
  const { width = 1440, height = 900, colorScheme = "light", tolerates = [] } = options;
  const context = await browser.newContext({ viewport: { width, height }, colorScheme });
  context.setDefaultTimeout(PATIENCE_MS);
  const page = await context.newPage();
  const found = [];
  page.on("pageerror", (error) => found.push(`error: ${error.stack ?? error.message}`));
  page.on("console", (message) => {
    const text = message.text();
    // A host that is not ready says so with the status 503.
    if (message.location().url.endsWith("/ready")) return;
    if (message.type() !== "error" || tolerates.some((part) => text.includes(part))) return;
    found.push(`console: ${text} ${message.location().url}`);
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(new URL(base).origin)) found.push(`request to ${request.url()}`);
  });
  await page.addInitScript(watch);
  const open = async (path) => {
    await page.goto(`${base}/console/${path}`);
    await page.locator(".topbar h1, .login h1").first().waitFor();
  };
  try {
    await steps({ page, open, context });
    assert.deepEqual(found, [], "the page reported errors");
    const violations = await page.evaluate(() => window.violations ?? []);
    assert.deepEqual(violations.filter((text) => !tolerates.some((part) => text.includes(part))), []);
  } catch (error) {
    const shot = `${process.env.CONSOLE_OUT ?? "."}/failure.png`;
    await page.screenshot({ path: shot }).catch(() => undefined);
    error.message += `\nat ${page.url()}; see ${shot}${found.length ? `\n${found.join("\n")}` : ""}`;
    throw error;
  } finally {
    await context.close();
  }
}

/** Waits until a condition holds. */
export async function until(what, condition) {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    if (await condition()) return;
    if (Date.now() > end) throw new Error(`waited for: ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}
