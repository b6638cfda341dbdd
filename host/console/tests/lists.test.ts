import assert from "node:assert/strict";
import { test } from "node:test";
import { newestRecords } from "../src/api/audit.ts";
import { newestEvents, type EventRow } from "../src/api/events.ts";
import type { AuditRecord } from "../src/api/types.ts";
import { permits } from "../src/lib/access.ts";
import { appendOlder, mergeNewest } from "../src/lib/paged.ts";
import { describe, filterOf, queryOf } from "../src/views/dead-letters/filter.ts";

const own = (one: string) => one;

test("a new first page is put before what is known", () => {
  assert.deepEqual(mergeNewest(["d", "c"], ["c", "b"], own), ["d", "c", "b"]);
  assert.deepEqual(mergeNewest(["a"], [], own), ["a"]);
  assert.equal(mergeNewest(["z", "y"], ["b", "a"], own), null);
  assert.deepEqual(appendOlder(["c", "b"], ["b", "a"], own), ["c", "b", "a"]);
});

/** A log with an event each second, of which every tenth matches. */
function log(length: number, now: number) {
  const events = Array.from({ length }, (_, at) => ({
    seq: at + 1,
    logged_at_ms: now - (length - at) * 1_000,
  })).filter((one) => one.seq % 10 === 0) as EventRow[];
  return async (query: Record<string, unknown>) => {
    const after = Number(query["cursor"] ?? 0);
    const since = Number(query["since"] ?? 0);
    const rest = events.filter((one) => one.seq > after && one.logged_at_ms >= since);
    const items = rest.slice(0, Number(query["limit"]));
    return { items, next: rest.length > items.length ? items.at(-1)!.seq : null };
  };
}

test("the newest events are found without reading the whole log", async () => {
  const now = 1_000_000_000_000;
  const found = await newestEvents({}, 100, now, log(50_000, now));
  assert.equal(found.items.length, 100);
  assert.deepEqual([found.items[0]?.seq, found.items.at(-1)?.seq, found.end], [49_010, 50_000, 50_000]);
  assert.ok(found.older);
  const few = await newestEvents({}, 100, now, log(300, now));
  assert.deepEqual([few.items.length, few.older], [30, false]);
  const none = await newestEvents({}, 100, now, log(0, now));
  assert.deepEqual([none.items.length, none.end], [0, 0]);
});

test("the newest records of the audit log come first", async () => {
  const all = Array.from({ length: 900 }, (_, at) => ({ pos: at + 1 }) as AuditRecord);
  const read = async (query: Record<string, unknown>) => {
    const rest = all.filter((one) => one.pos > Number(query["cursor"] ?? 0));
    const items = rest.slice(0, Number(query["limit"]));
    const next = rest.length > items.length ? items.at(-1)!.pos : null;
    return { items, next, head: { pos: 900, hash: "" }, anchor: { pos: 0, hash: "" } };
  };
  const found = await newestRecords({}, 300, read);
  assert.deepEqual([found.items[0]?.pos, found.items.length, found.older], [900, 300, true]);
});

test("jobs select what the list shows, and everything only when nothing is set", () => {
  assert.deepEqual(filterOf({}), { all: true });
  assert.deepEqual(filterOf({ stage: "pay", status: "open", view: "letters" }), { stage: "pay" });
  assert.equal(describe({ stage: "pay", code: "x" }), "open dead letters of stage pay, with code x");
  assert.equal(queryOf({}).status, "open");
  assert.equal(queryOf({ status: "any" }).status, undefined);
});

test("roles permit what they include, within their scope", () => {
  assert.ok(permits(["admin"], "operate", "pay"));
  assert.ok(!permits(["admin"], "payloads"));
  assert.ok(permits(["operate:stage/pay"], "operate", "pay"));
  assert.ok(permits(["operate:stage/pay"], "read", "pay"));
  assert.ok(!permits(["operate:stage/pay"], "operate", "ship"));
  assert.ok(!permits(["operate:stage/pay"], "operate"));
  assert.ok(!permits(["submit:type/order.#"], "read"));
});
