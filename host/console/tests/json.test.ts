import assert from "node:assert/strict";
import { test } from "node:test";
import { jsonProblem, pretty, raw, rawElements, sameJson, tokens } from "../src/lib/json.ts";

test("numbers keep their digits", () => {
  const text = '{"a":12345678901234567890.10,"b":[1e400,-0]}';
  assert.equal(raw(text, "a"), "12345678901234567890.10");
  assert.equal(
    pretty(text),
    '{\n  "a": 12345678901234567890.10,\n  "b": [\n    1e400,\n    -0\n  ]\n}',
  );
});

test("members are found by their path, whatever is inside of strings", () => {
  const text = '{"x":"} , \\" [","data":{"data":[{"k":"v"}]},"\\u0064ata2":null}';
  assert.equal(raw(text, "data", "data", "0", "k"), '"v"');
  assert.equal(raw(text, "data2"), "null");
  assert.equal(raw(text, "missing"), null);
  assert.equal(raw(text, "x", "y"), null);
});

test("elements keep their text", () => {
  assert.deepEqual(rawElements('{"items":[{"a":1.0},[2],"]"],"next":3}', "items"), [
    '{"a":1.0}',
    "[2]",
    '"]"',
  ]);
  assert.deepEqual(rawElements('{"items":[]}', "items"), []);
});

test("empty values stay on one line, and other texts as they are", () => {
  assert.equal(pretty('{"a":{},"b":[]}'), '{\n  "a": {},\n  "b": []\n}');
  assert.equal(pretty("no <b>json</b>"), "no <b>json</b>");
  assert.equal(tokens("{'a':1}"), null);
});

test("formatting it again changes nothing", () => {
  const once = pretty('[{"a":[1,2,{"b":"c"}]},null,true]');
  assert.equal(pretty(once), once);
  assert.ok(sameJson('{"a":1}', '{ "a" : 1 }'));
  assert.ok(!sameJson('{"a":1}', '{"a":1.0}'));
});

test("what is no JSON has a reason", () => {
  assert.equal(jsonProblem('{"a":1}'), null);
  assert.ok(jsonProblem("{"));
});
