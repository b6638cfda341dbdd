import assert from "node:assert/strict";
import { test } from "node:test";
import { placesOf } from "../src/lib/base.ts";
import { formatRoute, parseRoute } from "../src/lib/router.ts";

test("an address is read as it was written", () => {
  for (const id of ["7", "a/b", "100 %", "%2F", "ä?#&", "a+b", "..x"]) {
    const address = formatRoute("orders", id, { status: "failed", customer: "a&b=c" });
    const [path = "", search = ""] = address.split("?");
    assert.deepEqual(parseRoute(path, `?${search}`), {
      view: "orders",
      id,
      query: { status: "failed", customer: "a&b=c" },
    });
  }
});

test("the first view has the shortest address", () => {
  assert.equal(formatRoute("pipeline"), "");
  assert.equal(formatRoute("pipeline", "payment"), "pipeline/payment");
  assert.deepEqual(parseRoute("", ""), { view: "pipeline", id: null, query: {} });
});

test("unknown views and broken escapes are no errors", () => {
  assert.equal(parseRoute("nothing", "").view, "unknown");
  assert.equal(parseRoute("orders/%E0%A4%A", "").id, "%E0%A4%A");
});

test("the places follow from the address of the script, below any prefix", () => {
  assert.deepEqual(placesOf("https://h/console/assets/console-1.js"), {
    console: "/console/",
    api: "/",
  });
  assert.deepEqual(placesOf("https://h/a/console/b/console/assets/console-1.js"), {
    console: "/a/console/b/console/",
    api: "/a/console/b/",
  });
});
