import assert from "node:assert/strict";
import { test } from "node:test";
import type { Topology } from "../src/api/types.ts";
import { layOut, pathOf } from "../src/graph/layout.ts";
import { graphOf, matches, OUTSIDE } from "../src/graph/model.ts";

const SIZES = {
  nodeWidth: 100,
  headHeight: 40,
  sourceHeight: 30,
  portHeight: 20,
  laneHeight: 10,
  layerGap: 50,
  nodeGap: 10,
};

function topology(stages: Record<string, [string[], string[]]>): Topology {
  const all = Object.entries(stages).map(([name, [consumes, emits]]) => ({
    name,
    consumes,
    emits,
    handles: consumes,
    hosts: ["here"],
    version: "1.0.0",
  }));
  return { first_events: ["order.created"], stages: all, warnings: [] };
}

test("patterns match as topics do", () => {
  for (const [pattern, type, fits] of [
    ["a.b", "a.b", true],
    ["a.*", "a.b", true],
    ["a.*", "a.b.c", false],
    ["a.#", "a", true],
    ["a.#", "a.b.c", true],
    ["#.c", "a.b.c", true],
    ["*", "a.b", false],
    ["#", "a.b", true],
  ] as const) {
    assert.equal(matches(pattern, type), fits, `${pattern} ${type}`);
  }
});

test("what no stage emits comes from outside", () => {
  const graph = graphOf(topology({ pay: [["order.created", "x.y"], ["paid"]], ship: [["paid"], []] }));
  assert.deepEqual(graph.nodes.map((node) => node.id), [OUTSIDE, "stage:pay", "stage:ship"]);
  assert.deepEqual(graph.nodes[0]?.emits, ["order.created", "x.y"]);
  assert.deepEqual(
    graph.edges.map((edge) => `${edge.from} ${edge.type} ${edge.to}`),
    [`${OUTSIDE} order.created stage:pay`, `${OUTSIDE} x.y stage:pay`, "stage:pay paid stage:ship"],
  );
});

test("edges lead to the right, but for those that close a cycle", () => {
  const layout = layOut(
    graphOf(
      topology({
        pay: [["order.created", "rejected"], ["paid"]],
        stock: [["paid"], ["reserved", "rejected"]],
        ship: [["reserved"], ["ready"]],
        mail: [["paid", "ready", "rejected"], []],
      }),
    ),
    SIZES,
  );
  const x = new Map(layout.nodes.map((node) => [node.id, node.x]));
  for (const edge of layout.edges) {
    assert.equal(x.get(edge.from)! < x.get(edge.to)!, !edge.back, JSON.stringify(edge));
  }
  const back = layout.edges.filter((edge) => edge.back).map((edge) => `${edge.type} ${edge.to}`);
  assert.deepEqual(back, ["rejected stage:pay"]);
});

test("nodes of a layer do not overlap, and everything is inside of the picture", () => {
  const stages: Record<string, [string[], string[]]> = { first: [["order.created"], ["a", "b", "c"]] };
  for (let at = 0; at < 12; at += 1) stages[`stage-${at}`] = [["#"], [`out.${at}`]];
  const layout = layOut(graphOf(topology(stages)), SIZES);
  for (const one of layout.nodes) {
    assert.ok(one.x >= 0 && one.y >= 0 && one.x + one.width <= layout.width, one.id);
    assert.ok(one.y + one.height <= layout.height, one.id);
    for (const other of layout.nodes) {
      if (one === other || one.x !== other.x) continue;
      assert.ok(one.y + one.height <= other.y || other.y + other.height <= one.y, `${one.id} ${other.id}`);
    }
  }
  assert.ok(layout.edges.every((edge) => /^M[-\d. MCHVq]+$/.test(pathOf(edge))));
});

test("a stage that consumes what it emits is a cycle of its own", () => {
  const layout = layOut(graphOf(topology({ loop: [["order.created", "again"], ["again"]] })), SIZES);
  assert.deepEqual(layout.edges.filter((edge) => edge.back).map((edge) => edge.type), ["again"]);
});

test("no stages are no picture", () => {
  const layout = layOut(graphOf({ first_events: [], stages: [], warnings: [] }), SIZES);
  assert.deepEqual(layout, { nodes: [], edges: [], width: 0, height: 0 });
});
