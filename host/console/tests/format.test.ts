import assert from "node:assert/strict";
import { test } from "node:test";
import { bytes, count, duration, plural, rate, relative, splitKey } from "../src/lib/format.ts";

test("durations have the unit that fits", () => {
  for (const [ms, text] of [
    [0, "0 ms"],
    [0.04, "0.04 ms"],
    [0.42, "0.4 ms"],
    [9.96, "10 ms"],
    [12.4, "12 ms"],
    [1_250, "1.25 s"],
    [59_949, "59.9 s"],
    [59_960, "1 min"],
    [200_000, "3 min 20 s"],
    [7_500_000, "2 h 5 min"],
    [3 * 86_400_000 + 4 * 3_600_000, "3 d 4 h"],
    [-12, "-12 ms"],
  ] as const) {
    assert.equal(duration(ms), text);
  }
  assert.equal(duration(null), "–");
});

test("times are relative to now", () => {
  const now = 1_000_000_000;
  assert.equal(relative(now, now), "now");
  assert.equal(relative(now - 12_000, now), "12 s ago");
  assert.equal(relative(now + 180_000, now), "in 3 min");
  assert.equal(relative(now - 2 * 86_400_000, now), "2 d ago");
});

test("numbers are grouped, and rates and sizes have units", () => {
  assert.equal(count(1_234_567), "1,234,567");
  assert.equal(count(undefined), "–");
  assert.equal(rate(0), "0/s");
  assert.equal(rate(0.004), "<0.01/s");
  assert.equal(rate(0.42), "0.42/s");
  assert.equal(rate(1204.4), "1,204/s");
  assert.equal(bytes(812), "812 B");
  assert.equal(bytes(1_536), "1.5 KiB");
  assert.equal(bytes(64 * 1024 * 1024), "64 MiB");
  assert.equal(plural(1, "stage"), "1 stage");
  assert.equal(plural(0, "stage"), "0 stages");
});

test("the id in a key may contain slashes", () => {
  assert.deepEqual(splitKey("order/a/b"), { kind: "order", id: "a/b" });
});
