import assert from "node:assert/strict";
import { test } from "node:test";
import type { Delivery } from "../src/api/types.ts";
import { laneOf, scaleOf } from "../src/views/orders/timeline.ts";

function delivery(changes: Partial<Delivery>): Delivery {
  return {
    stage: "pay",
    status: "done",
    event: { id: "1", source: "/s", type: "order.created" },
    attempt: 1,
    round: 1,
    created_at_ms: 1_000,
    settled_at_ms: 1_100,
    duration_ms: 10,
    emitted: [],
    failures: [],
    plugin: {},
    ...changes,
  };
}

const failure = (attempt: number, at_ms: number) => ({
  attempt,
  round: 1,
  at_ms,
  code: "x",
  message: "y",
  digest: "d",
  duration_us: 5_000,
});

test("a delivery waits for its turn, then runs", () => {
  const lane = laneOf(delivery({}), 0);
  assert.deepEqual(lane.segments, [
    { kind: "wait", from: 1_000, to: 1_090 },
    { kind: "run", from: 1_090, to: 1_100 },
  ]);
  assert.deepEqual([lane.queueMs, lane.runMs], [90, 10]);
});

test("failed attempts are bars, with waits between them", () => {
  const failures = [failure(1, 1_020), failure(2, 1_060)];
  const lane = laneOf(delivery({ failures, attempt: 3 }), 0);
  assert.deepEqual(
    lane.segments.map((one) => one.kind),
    ["wait", "fail", "wait", "fail", "wait", "run"],
  );
  assert.deepEqual([lane.queueMs, lane.runMs], [15, 20]);
});

test("the last failure of a dead letter is not drawn twice", () => {
  const lane = laneOf(delivery({ status: "dead", failures: [failure(1, 1_020)] }), 0);
  assert.deepEqual(lane.segments.map((one) => one.kind), ["wait", "fail"]);
});

test("what is open is pending until now", () => {
  const lane = laneOf(delivery({ status: "open", settled_at_ms: null, duration_ms: null }), 5_000);
  assert.deepEqual(lane.segments, [{ kind: "pending", from: 1_000, to: 5_000 }]);
  assert.equal(lane.queueMs, 4_000);
});

test("bars never run backwards, though calls are shorter than a millisecond", () => {
  const failures = [failure(1, 1_001), failure(2, 1_001)];
  const lane = laneOf(delivery({ failures, settled_at_ms: 1_001, duration_ms: 0.3 }), 0);
  assert.ok(lane.segments.every((one) => one.to >= one.from));
});

test("a period that is much longer than the rest is drawn short", () => {
  const lanes = [
    laneOf(delivery({}), 0),
    laneOf(delivery({ created_at_ms: 3_601_000, settled_at_ms: 3_601_100 }), 0),
  ];
  const scale = scaleOf(lanes);
  assert.deepEqual(scale.gaps, [{ from: 1_100, to: 3_601_000 }]);
  assert.equal(scale.at(1_000), 0);
  assert.ok(Math.abs(scale.at(1_100) - 0.47) < 1e-9);
  assert.ok(Math.abs(scale.at(3_601_000) - 0.53) < 1e-9);
  assert.ok(Math.abs(scale.at(3_601_100) - 1) < 1e-9);
});

test("a scale is monotonous, with several gaps", () => {
  const at = [0, 40, 90_000, 90_020, 9_000_000, 9_000_010];
  const lanes = at.map((time) =>
    laneOf(delivery({ created_at_ms: time, settled_at_ms: time + 5, duration_ms: 1 }), 0),
  );
  const scale = scaleOf(lanes);
  assert.equal(scale.gaps.length, 2);
  let last = -1;
  for (let time = 0; time <= 9_000_015; time += 1_500) {
    const place = scale.at(time);
    assert.ok(place >= last && place <= 1, `${time}: ${place}`);
    last = place;
  }
});
