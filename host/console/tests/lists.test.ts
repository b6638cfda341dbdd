import assert from "node:assert/strict";
import { test } from "node:test";
import { newestRecords } from "../src/api/audit.ts";
import { newestEvents, type EventPage, type EventRow } from "../src/api/events.ts";
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

/** A log of which every tenth event matches, as the API lists it from its end: 1,000 positions a page. */
function log(length: number) {
  const events = Array.from({ length }, (_, at) => ({ seq: at + 1 })).filter(
    (one) => one.seq % 10 === 0,
  ) as EventRow[];
  const reads: unknown[] = [];
  const read = async (query: Record<string, unknown>) => {
    reads.push(query);
    assert.equal(query["order"], "newest");
    const before = Number(query["cursor"] ?? length + 1);
    const rest = events.filter((one) => one.seq < before && one.seq >= before - 1_000).reverse();
    const items = rest.slice(0, Number(query["limit"]));
    const next = items.length < rest.length ? items.at(-1)!.seq : before - 1_000;
    return { items, next: next > 1 ? next : null };
  };
  return { read, reads };
}

test("the newest events are found without reading the whole log", async () => {
  const long = log(50_000);
  const found = await newestEvents({}, 150, null, long.read);
  const ends = (page: EventPage) => [page.items[0]?.seq, page.items.at(-1)?.seq, page.items.length];
  assert.deepEqual(ends(found), [50_000, 48_510, 150]);
  assert.equal(long.reads.length, 2);
  const older = await newestEvents({}, 100, found.next, long.read);
  assert.deepEqual(ends(older), [48_500, 47_510, 100]);
  const few = await newestEvents({}, 100, null, log(300).read);
  assert.deepEqual([few.items.length, few.next], [30, null]);
  const none = await newestEvents({}, 100, null, log(0).read);
  assert.deepEqual([none.items.length, none.next], [0, null]);
});

test("the newest records of the audit log come first", async () => {
  const all = Array.from({ length: 900 }, (_, at) => ({ pos: 900 - at }) as AuditRecord);
  const read = async (query: Record<string, unknown>) => {
    assert.equal(query["order"], "newest");
    const rest = all.filter((one) => one.pos < Number(query["cursor"] ?? 1_000));
    const items = rest.slice(0, Number(query["limit"]));
    const next = rest.length > items.length ? items.at(-1)!.pos : null;
    return { items, next, head: { pos: 900, hash: "" }, anchor: { pos: 0, hash: "" } };
  };
  const found = await newestRecords({}, 300, read);
  assert.deepEqual([found.items[0]?.pos, found.items.length, found.older], [900, 300, true]);
  const whole = await newestRecords({}, 1_000, read);
  assert.deepEqual([whole.items.length, whole.older], [900, false]);
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
