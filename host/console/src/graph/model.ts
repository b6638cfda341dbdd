// The pipeline as a graph: sources of first events, stages, and the event types between them.

import type { Topology } from "../api/types.ts";

export interface GraphNode {
  id: string;
  /** Where events come from that no stage emits, or a stage. */
  kind: "source" | "stage";
  name: string;
  /** Event types that leave the node, in the order of its ports. */
  emits: string[];
}

export interface GraphEdge {
  type: string;
  from: string;
  to: string;
  /** Position of the type among what `from` emits. */
  port: number;
}

export interface Graph {
  nodes: GraphNode[];
  edges: GraphEdge[];
}

/** Whether a topic pattern matches a type: `*` is one word, `#` any number of words. */
export function matches(pattern: string, type: string): boolean {
  const fits = (rest: string[], words: string[]): boolean => {
    const [first, ...others] = rest;
    if (first === undefined) return words.length === 0;
    if (first === "#") {
      return fits(others, words) || (words.length > 0 && fits(rest, words.slice(1)));
    }
    return words.length > 0 && (first === "*" || first === words[0]) && fits(others, words.slice(1));
  };
  return fits(pattern.split("."), type.split("."));
}

/** The node of event types that no stage emits: first events, and those of other programs. */
export const OUTSIDE = "source:";

export function graphOf(topology: Topology): Graph {
  const emitted = new Set(topology.stages.flatMap((stage) => stage.emits));
  const outside = new Set(topology.first_events);
  for (const pattern of topology.stages.flatMap((stage) => stage.consumes)) {
    if (!/[*#]/.test(pattern) && !emitted.has(pattern)) outside.add(pattern);
  }
  const nodes: GraphNode[] = [];
  if (outside.size > 0) {
    nodes.push({ id: OUTSIDE, kind: "source", name: "Outside", emits: [...outside] });
  }
  for (const stage of topology.stages) {
    const emits = [...new Set(stage.emits)].sort();
    nodes.push({ id: `stage:${stage.name}`, kind: "stage", name: stage.name, emits });
  }
  const edges: GraphEdge[] = [];
  for (const node of nodes) {
    node.emits.forEach((type, port) => {
      for (const stage of topology.stages) {
        if (!stage.consumes.some((pattern) => matches(pattern, type))) continue;
        edges.push({ type, from: node.id, to: `stage:${stage.name}`, port });
      }
    });
  }
  return { nodes, edges };
}
