import assert from "node:assert/strict";
import { test } from "node:test";
import type { ComparedReason } from "../src/api/types.ts";
import { reasons, shownChange } from "../src/lib/compare.ts";

const change = (from: string, to: string) => {
  const { before, after } = shownChange({ what: "event 1", from, to });
  return [before, after];
};

test("JSON is spread over lines, with the type of an event before it", () => {
  assert.deepEqual(change('paid {"total":1}', 'declined {"total":1}'), [
    'paid\n{\n  "total": 1\n}',
    'declined\n{\n  "total": 1\n}',
  ]);
  assert.deepEqual(change("[1]", "none"), ["[\n  1\n]", "none"]);
});

test("other texts stay as they are", () => {
  for (const text of ['"authorized"', "done: paid, sent", "failed, retryable: a {b", "says {nothing"]) {
    assert.deepEqual(change(text, "none"), [text, "none"]);
  }
});

test("a text that was shortened is compared with the other as it is", () => {
  const [whole, cut] = ['paid {"total":1}', 'paid {"total":1,"note":"x…'];
  assert.deepEqual(change(whole, cut), [whole, cut]);
});

test("each reason is listed once, the most frequent first", () => {
  const one = (id: string, reason: string) => ({ event: { id }, reason }) as ComparedReason;
  const grouped = reasons([one("1", "a"), one("2", "b"), one("3", "b")]);
  assert.deepEqual(
    grouped.map(([reason, events]) => [reason, events.map(({ event }) => event.id)]),
    [["b", ["2", "3"]], ["a", ["1"]]],
  );
});
