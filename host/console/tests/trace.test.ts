import assert from "node:assert/strict";
import { test } from "node:test";
import { traceIdOf, traceUrl } from "../src/lib/trace.ts";

const ID = "4bf92f3577b34da6a3ce929d0e0e4736";

test("the id of a trace is read from a valid traceparent only", () => {
  assert.equal(traceIdOf(`00-${ID}-00f067aa0ba902b7-01`), ID);
  // A later version may have more parts.
  assert.equal(traceIdOf(`01-${ID}-00f067aa0ba902b7-01-more`), ID);
  for (const other of [undefined, "", ID, `00-${ID}`, `00-${"0".repeat(32)}-00f067aa0ba902b7-01`, "00-x\"><b>-1-01"]) {
    assert.equal(traceIdOf(other), null, other);
  }
});

test("the address of a trace has its id in every place of the template", () => {
  const template = "https://jaeger.example/trace/{trace_id}?uiFind={trace_id}";
  assert.equal(traceUrl(template, ID), `https://jaeger.example/trace/${ID}?uiFind=${ID}`);
  assert.equal(traceUrl(null, ID), null);
});
