import assert from "node:assert/strict";
import { test } from "node:test";
import { parseMetrics, quantile, ratesBetween, readStages } from "../src/lib/metrics.ts";

const text = (done: number, dead: number, fast: number, slow: number) => `# TYPE postrider_deliveries counter
postrider_deliveries_total{stage="pay",outcome="done"} ${done}
postrider_deliveries_total{stage="pay",outcome="dead-lettered"} ${dead}
postrider_delivery_duration_seconds_bucket{le="0.001",stage="pay"} ${fast}
postrider_delivery_duration_seconds_bucket{le="0.01",stage="pay"} ${fast + slow}
postrider_delivery_duration_seconds_bucket{le="+Inf",stage="pay"} ${fast + slow} # {trace_id="1"} 0.002
postrider_queue_wait_seconds_bucket{le="0.001",stage="pay"} ${fast}
postrider_queue_wait_seconds_bucket{le="+Inf",stage="pay"} ${fast}
# EOF
`;

test("samples have labels, escaped ones too", () => {
  assert.deepEqual(parseMetrics('a_total{x="a\\"}b",y="\\\\"} 1.5e3\nb 2 1700\n\nbroken'), [
    { name: "a_total", labels: { x: 'a"}b', y: "\\" }, value: 1500 },
    { name: "b", labels: {}, value: 2 },
  ]);
});

test("rates and quantiles are those between two readings", () => {
  const before = readStages(parseMetrics(text(100, 1, 100, 1)), 0);
  const after = readStages(parseMetrics(text(180, 3, 100, 101)), 10_000);
  const rates = ratesBetween(before, after, "pay");
  assert.equal(rates?.perSecond, 8.2);
  assert.equal(rates?.failedPerSecond, 0.2);
  assert.ok(Math.abs((rates?.p95Ms ?? 0) - 9.55) < 0.01);
  assert.equal(rates?.waitP95Ms, null);
  assert.equal(ratesBetween(after, before, "pay"), null);
  assert.equal(ratesBetween(before, after, "other"), null);
});

test("without messages there is no quantile, and a slow one has a lower bound", () => {
  assert.equal(quantile(0.95, [[1, 5], [Infinity, 5]], [[1, 5], [Infinity, 5]]), null);
  assert.equal(quantile(0.95, [], [[1, 0], [Infinity, 5]]), 1000);
});
