// The console works behind a proxy that serves it below a prefix, which the host does not know.

import assert from "node:assert/strict";
import { createServer, request } from "node:http";
import { withPage } from "./browser.mjs";

const PREFIX = "/console/ops";

export async function prefix({ base, browser }) {
  const target = new URL(base);
  const proxy = createServer((incoming, outgoing) => {
    if (!incoming.url.startsWith(`${PREFIX}/`)) return outgoing.writeHead(404).end();
    const path = incoming.url.slice(PREFIX.length);
    const { method, headers } = incoming;
    const options = { host: target.hostname, port: target.port, path, method, headers };
    const forwarded = request(options, (answer) => {
      outgoing.writeHead(answer.statusCode, answer.headers);
      outgoing.flushHeaders();
      answer.pipe(outgoing);
    });
    forwarded.on("error", () => outgoing.destroy());
    outgoing.on("close", () => forwarded.destroy());
    incoming.pipe(forwarded);
  });
  await new Promise((listening) => proxy.listen(0, "127.0.0.1", listening));
  const below = `http://127.0.0.1:${proxy.address().port}${PREFIX}`;
  try {
    await withPage(browser, below, {}, async ({ page, open }) => {
      for (const path of ["", "orders/one", "orders/a%3Ab%40c~"]) {
        await open(path);
        await page.locator(path === "" ? ".node >> text=payment" : ".lane").first().waitFor();
      }
      await page.getByRole("link", { name: "Events" }).click();
      await page.locator("a[data-row]").first().waitFor();
      await page.locator(".live >> text=Live").waitFor();
      assert.equal(new URL(page.url()).pathname, `${PREFIX}/console/events`);
    });
  } finally {
    proxy.closeAllConnections();
    proxy.close();
  }
}
