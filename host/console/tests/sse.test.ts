import assert from "node:assert/strict";
import { test } from "node:test";
import { MessageReader } from "../src/lib/sse.ts";

const text =
  'retry: 1000\nid: 7\ndata: {"a":1}\n\n:\n\nid: 8\r\ndata: one\r\ndata: two\r\n\r\nevent: end\ndata: {}\n\n';
const messages = [
  { event: "message", data: '{"a":1}', id: "7" },
  { event: "message", data: "one\ntwo", id: "8" },
  { event: "end", data: "{}", id: "8" },
];

test("messages are read whole, however they are cut", () => {
  for (let size = 1; size <= text.length; size += 1) {
    const reader = new MessageReader();
    const found = [];
    for (let at = 0; at < text.length; at += size) found.push(...reader.feed(text.slice(at, at + size)));
    assert.deepEqual(found, messages, `pieces of ${size}`);
  }
});

test("a message that is cut off is none", () => {
  assert.deepEqual(new MessageReader().feed("id: 9\ndata: x\n"), []);
});
