// Layered layout from left to right: longest path for the layers, barycentres for the order within a
// layer, and lanes for edges that pass layers. Pure; for up to about a hundred nodes.

import type { Graph, GraphEdge, GraphNode } from "./model.ts";

export interface Sizes {
  nodeWidth: number;
  /** Height of a stage without its ports. */
  headHeight: number;
  /** The same of a source. */
  sourceHeight: number;
  portHeight: number;
  /** Height of the lane of an edge that passes a layer. */
  laneHeight: number;
  layerGap: number;
  nodeGap: number;
}

export interface PlacedNode extends GraphNode {
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface PlacedEdge extends GraphEdge {
  /** From the port to the stage, through the lanes. */
  points: [number, number][];
  /** It leads to an earlier layer, or to its own. */
  back: boolean;
}

export interface Layout {
  nodes: PlacedNode[];
  edges: PlacedEdge[];
  width: number;
  height: number;
}

/** Between two lanes. */
const LANE_GAP = 2;

/** A node, or the place of a passing edge in a layer. */
interface Slot {
  id: string;
  node: GraphNode | null;
  height: number;
  y: number;
  /** Slots of the layer before, and of the one after. */
  left: string[];
  right: string[];
}

export function layOut(graph: Graph, sizes: Sizes): Layout {
  const backEdges = findBackEdges(graph);
  const layerOf = layersOf(graph, backEdges);
  const layers: Slot[][] = [];
  const slots = new Map<string, Slot>();
  const add = (id: string, node: GraphNode | null, layer: number) => {
    const ports = node ? node.emits.length * sizes.portHeight : 0;
    const height = node ? headOf(node, sizes) + ports : sizes.laneHeight;
    const slot: Slot = { id, node, height, y: 0, left: [], right: [] };
    (layers[layer] ??= []).push(slot);
    slots.set(id, slot);
  };
  for (const node of graph.nodes) add(node.id, node, layerOf.get(node.id)!);
  const lanes = new Map<GraphEdge, string[]>();
  for (const edge of graph.edges) {
    if (backEdges.has(edge)) continue;
    const passed: string[] = [];
    for (let layer = layerOf.get(edge.from)! + 1; layer < layerOf.get(edge.to)!; layer += 1) {
      // Edges of the same type share a lane.
      const id = `lane:${layer}:${edge.from}:${edge.type}`;
      if (!slots.has(id)) add(id, null, layer);
      passed.push(id);
    }
    lanes.set(edge, passed);
    const chain = [edge.from, ...passed, edge.to];
    chain.slice(1).forEach((id, place) => {
      const [left, right] = [slots.get(chain[place]!)!, slots.get(id)!];
      if (left.right.includes(id)) return;
      left.right.push(id);
      right.left.push(left.id);
    });
  }
  order(layers);
  const height = place(layers, slots, sizes);
  return draw(graph, { layers, slots, lanes, backEdges, height, sizes });
}

/** Height of a node without its ports. */
export function headOf(node: GraphNode, sizes: Sizes): number {
  return node.kind === "source" ? sizes.sourceHeight : sizes.headHeight;
}

/** Edges that would make a cycle, found depth first from the sources. */
function findBackEdges(graph: Graph): Set<GraphEdge> {
  const back = new Set<GraphEdge>();
  const state = new Map<string, "open" | "done">();
  const outgoing = new Map<string, GraphEdge[]>();
  for (const edge of graph.edges) {
    outgoing.set(edge.from, [...(outgoing.get(edge.from) ?? []), edge]);
  }
  const visit = (id: string) => {
    state.set(id, "open");
    for (const edge of outgoing.get(id) ?? []) {
      const seen = state.get(edge.to);
      if (seen === "open") back.add(edge);
      else if (!seen) visit(edge.to);
    }
    state.set(id, "done");
  };
  const targets = new Set(graph.edges.map((edge) => edge.to));
  const starts = graph.nodes.filter((node) => !targets.has(node.id));
  for (const node of [...starts, ...graph.nodes]) if (!state.has(node.id)) visit(node.id);
  return back;
}

/** The layer of each node: one more than the last of those before it. */
function layersOf(graph: Graph, back: Set<GraphEdge>): Map<string, number> {
  const layer = new Map(graph.nodes.map((node) => [node.id, 0]));
  for (let round = 0; round < graph.nodes.length; round += 1) {
    let changed = false;
    for (const edge of graph.edges) {
      if (back.has(edge)) continue;
      const wanted = layer.get(edge.from)! + 1;
      if (wanted > layer.get(edge.to)!) {
        layer.set(edge.to, wanted);
        changed = true;
      }
    }
    if (!changed) break;
  }
  return layer;
}

/** Sorts each layer by the mean place of its neighbours, to and fro. */
function order(layers: Slot[][]): void {
  for (let sweep = 0; sweep < 8; sweep += 1) {
    const forward = sweep % 2 === 0;
    const sequence = forward ? layers : [...layers].reverse();
    sequence.forEach((layer, index) => {
      const before = sequence[index - 1];
      if (!before) return;
      const places = new Map(before.map((slot, at) => [slot.id, at]));
      const mean = (slot: Slot, own: number) => {
        const known = (forward ? slot.left : slot.right).flatMap((id) => places.get(id) ?? []);
        return known.length > 0 ? known.reduce((a, b) => a + b, 0) / known.length : own;
      };
      const keyed = layer.map((slot, own) => ({ slot, key: mean(slot, own) }));
      keyed.sort((a, b) => a.key - b.key);
      layer.splice(0, layer.length, ...keyed.map(({ slot }) => slot));
    });
  }
}

/** Gives each slot its height in the picture, near its neighbours; returns the height of all. */
function place(layers: Slot[][], slots: Map<string, Slot>, sizes: Sizes): number {
  const centre = (slot: Slot) => slot.y + slot.height / 2;
  for (const layer of layers) {
    let y = 0;
    for (const slot of layer) {
      slot.y = y;
      y += slot.height + sizes.nodeGap;
    }
  }
  for (let sweep = 0; sweep < 12; sweep += 1) {
    const sequence = sweep % 2 === 0 ? layers : [...layers].reverse();
    for (const layer of sequence) {
      for (const slot of layer) {
        const near = [...slot.left, ...slot.right].map((id) => centre(slots.get(id)!));
        if (near.length === 0) continue;
        slot.y = near.reduce((a, b) => a + b, 0) / near.length - slot.height / 2;
      }
      spread(layer, sizes.nodeGap);
    }
  }
  const all = [...slots.values()];
  const top = Math.min(...all.map((slot) => slot.y));
  for (const slot of all) slot.y = Math.round(slot.y - top);
  return Math.max(0, ...all.map((slot) => slot.y + slot.height));
}

/** Moves the slots of a layer apart until none overlaps, around their common middle. */
function spread(layer: Slot[], nodeGap: number): void {
  const wanted = layer.map((slot) => slot.y);
  for (let index = 1; index < layer.length; index += 1) {
    const before = layer[index - 1]!;
    const gap = before.node || layer[index]!.node ? nodeGap : LANE_GAP;
    layer[index]!.y = Math.max(layer[index]!.y, before.y + before.height + gap);
  }
  const moved = layer.reduce((sum, slot, index) => sum + slot.y - wanted[index]!, 0);
  const shift = layer.length > 0 ? moved / layer.length : 0;
  for (const slot of layer) slot.y -= shift;
}

interface Placed {
  layers: Slot[][];
  slots: Map<string, Slot>;
  lanes: Map<GraphEdge, string[]>;
  backEdges: Set<GraphEdge>;
  height: number;
  sizes: Sizes;
}

/** Turns slots into coordinates. Edges back run in lanes below everything. */
function draw(graph: Graph, placed: Placed): Layout {
  const { layers, slots, lanes, backEdges, sizes } = placed;
  const pitch = sizes.nodeWidth + sizes.layerGap;
  const xOf = new Map(layers.flatMap((layer, at) => layer.map((slot) => [slot.id, at * pitch])));
  const nodes = graph.nodes.map((node) => {
    const slot = slots.get(node.id)!;
    const box = { x: xOf.get(node.id)!, y: slot.y, width: sizes.nodeWidth, height: slot.height };
    return { ...node, ...box };
  });
  let height = placed.height;
  const edges = graph.edges.map((edge): PlacedEdge => {
    const [from, to] = [slots.get(edge.from)!, slots.get(edge.to)!];
    const start: [number, number] = [
      xOf.get(edge.from)! + sizes.nodeWidth,
      from.y + headOf(from.node!, sizes) + (edge.port + 0.5) * sizes.portHeight,
    ];
    const end: [number, number] = [xOf.get(edge.to)!, to.y + sizes.headHeight / 2];
    if (backEdges.has(edge)) {
      height += sizes.laneHeight;
      const below = height - sizes.laneHeight / 2;
      return { ...edge, points: [start, [start[0], below], [end[0], below], end], back: true };
    }
    const passed = (lanes.get(edge) ?? []).flatMap((id): [number, number][] => {
      const y = slots.get(id)!.y + sizes.laneHeight / 2;
      return [
        [xOf.get(id)!, y],
        [xOf.get(id)! + sizes.nodeWidth, y],
      ];
    });
    return { ...edge, points: [start, ...passed, end], back: false };
  });
  return { nodes, edges, width: Math.max(0, layers.length * pitch - sizes.layerGap), height };
}

/** A smooth path through the points of an edge. */
export function pathOf(edge: PlacedEdge): string {
  const [first, ...others] = edge.points;
  if (!first) return "";
  if (edge.back) return backPath(edge.points);
  let [x, y] = first;
  let path = `M${x} ${y}`;
  for (const [nextX, nextY] of others) {
    const bend = (nextX - x) / 2;
    path +=
      nextY === y
        ? `H${nextX}`
        : `C${x + bend} ${y} ${nextX - bend} ${nextY} ${nextX} ${nextY}`;
    [x, y] = [nextX, nextY];
  }
  return path;
}

/** Down, back below everything, and up again, with round corners. */
function backPath(points: [number, number][]): string {
  const [[x1, y1], [, below], , [x2, y2]] = points as [
    [number, number],
    [number, number],
    [number, number],
    [number, number],
  ];
  const r = 8;
  return (
    `M${x1} ${y1}q${r} 0 ${r} ${r}V${below - r}q0 ${r} ${-r} ${r}` +
    `H${x2}q${-r} 0 ${-r} ${-r}V${y2 + r}q0 ${-r} ${r} ${-r}`
  );
}
