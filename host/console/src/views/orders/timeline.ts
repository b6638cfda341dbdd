// The history of a subject as bars on one scale of time. Pure.

import type { Delivery } from "../../api/types.ts";

export interface Segment {
  /** Waiting for its turn or for a retry, running, an attempt that failed, or not yet begun. */
  kind: "wait" | "run" | "fail" | "pending";
  from: number;
  to: number;
}

export interface Lane {
  delivery: Delivery;
  segments: Segment[];
  /** From due to the start of the first attempt, milliseconds. */
  queueMs: number;
  /** Time in the stage in all attempts, milliseconds. */
  runMs: number;
}

export function laneOf(delivery: Delivery, now: number): Lane {
  const segments: Segment[] = [];
  let at = delivery.created_at_ms;
  let queueMs: number | null = null;
  let runMs = 0;
  const attempt = (kind: "run" | "fail", end: number, length: number) => {
    // Times are whole milliseconds and calls are shorter: a bar never begins before the last one ends.
    const start = Math.max(at, end - length);
    if (start > at) segments.push({ kind: "wait", from: at, to: start });
    segments.push({ kind, from: start, to: Math.max(start, end) });
    queueMs ??= start - delivery.created_at_ms;
    runMs += length;
    at = Math.max(at, end);
  };
  for (const failure of delivery.failures) {
    attempt("fail", failure.at_ms, failure.duration_us / 1000);
  }
  if (delivery.settled_at_ms == null) {
    segments.push({ kind: "pending", from: at, to: Math.max(at, now) });
    queueMs ??= Math.max(0, now - delivery.created_at_ms);
  } else if (delivery.status === "done" && delivery.duration_ms != null) {
    attempt("run", delivery.settled_at_ms, delivery.duration_ms);
  } else if (delivery.settled_at_ms > at && delivery.status !== "dead") {
    segments.push({ kind: "wait", from: at, to: delivery.settled_at_ms });
  }
  return { delivery, segments, queueMs: queueMs ?? Math.max(0, at - delivery.created_at_ms), runMs };
}

export interface Scale {
  /** Where a time is, from 0 to 1. */
  at: (time: number) => number;
  /** Periods in which nothing happened and which are drawn short. */
  gaps: { from: number; to: number }[];
  start: number;
  end: number;
}

/** Shorter periods are never compressed, milliseconds. */
const GAP_MIN_MS = 1_000;
/** A period is a gap if it is longer than all others together, by this factor. */
const GAP_FACTOR = 4;
/** The width of a gap. */
const GAP_WIDTH = 0.06;

export function scaleOf(lanes: Lane[]): Scale {
  const times = new Set<number>();
  for (const lane of lanes) {
    times.add(lane.delivery.created_at_ms);
    for (const one of lane.segments) {
      times.add(one.from);
      times.add(one.to);
    }
  }
  const edges = [...times].sort((a, b) => a - b);
  const start = edges[0] ?? 0;
  const end = Math.max(edges.at(-1) ?? 0, start + 1);
  const periods = edges.slice(1).map((to, place) => ({ from: edges[place]!, to }));
  let open = end - start;
  const gaps: typeof periods = [];
  for (const period of [...periods].sort((a, b) => b.to - b.from - (a.to - a.from))) {
    const length = period.to - period.from;
    if (length < GAP_MIN_MS || length <= GAP_FACTOR * (open - length)) break;
    gaps.push(period);
    open -= length;
  }
  gaps.sort((a, b) => a.from - b.from);
  const rest = 1 - gaps.length * GAP_WIDTH;
  const at = (time: number) => {
    let place = 0;
    let from = start;
    for (const gap of gaps) {
      if (time <= gap.from) break;
      place += ((gap.from - from) / Math.max(1, open)) * rest;
      const within = Math.min(1, (time - gap.from) / (gap.to - gap.from));
      place += within * GAP_WIDTH;
      from = Math.min(gap.to, time);
      if (time < gap.to) return Math.min(1, place);
    }
    return Math.min(1, place + ((time - from) / Math.max(1, open)) * rest);
  };
  return { at, gaps, start, end };
}
