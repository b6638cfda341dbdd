import assert from "node:assert/strict";
import { test } from "node:test";
import { diffLines, withContext, type DiffLine } from "../src/lib/diff.ts";

/** The difference as `diff` writes it. */
function shown(lines: DiffLine[]): string {
  const marks = { same: " ", removed: "-", added: "+" };
  return lines.map((one) => marks[one.kind] + one.text).join("|");
}

test("a changed line is removed and added", () => {
  assert.equal(shown(diffLines("a\nb\nc", "a\nx\nc")), " a|-b|+x| c");
});

test("lines are added at the end and removed at the beginning", () => {
  assert.equal(shown(diffLines("a\nb", "b\nc")), "-a| b|+c");
});

test("equal texts have no difference", () => {
  assert.equal(shown(diffLines("a\nb", "a\nb")), " a| b");
});

test("the difference leads from one text to the other", () => {
  let seed = 7;
  const random = (below: number) => (seed = (seed * 16_807) % 2_147_483_647) % below;
  const text = () => Array.from({ length: 1 + random(12) }, () => "abc"[random(3)]).join("\n");
  for (let round = 0; round < 300; round += 1) {
    const [before, after] = [text(), text()];
    const lines = diffLines(before, after);
    const side = (left: string) =>
      lines.filter((one) => one.kind === "same" || one.kind === left).map((one) => one.text);
    assert.equal(side("removed").join("\n"), before);
    assert.equal(side("added").join("\n"), after);
  }
});

test("unchanged lines far from a change are left out", () => {
  const before = Array.from({ length: 20 }, (_, at) => String(at)).join("\n");
  const kept = withContext(diffLines(before, before.replace("10", "x")), 2);
  assert.deepEqual(
    kept.map((one) => ("gap" in one ? one.gap : one.text)),
    [8, "8", "9", "10", "x", "11", "12", 7],
  );
});
