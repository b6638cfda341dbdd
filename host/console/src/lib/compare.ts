// What a comparison says about each event, as texts that are easy to compare.

import type { ComparedChange, ComparedReason } from "../api/types.ts";
import { jsonProblem, pretty } from "./json.ts";

export interface ShownChange {
  what: string;
  before: string;
  after: string;
}

/** A change with JSON spread over lines, if both sides are whole; the host shortens long texts. */
export function shownChange({ what, from, to }: ComparedChange): ShownChange {
  const [before, after] = [spread(from), spread(to)];
  return before === null || after === null
    ? { what, before: from, after: to }
    : { what, before, after };
}

/** `authorized {"total":1}`, or an object, over lines; null: it was shortened. */
function spread(text: string): string | null {
  const start = text.search(/[[{]/);
  if (start < 0) return text;
  const head = text.slice(0, start).trim();
  if (head.includes(" ")) return text;
  const body = text.slice(start);
  if (jsonProblem(body) !== null) return text.endsWith("…") ? null : text;
  // Numbers keep every digit.
  return head === "" ? pretty(body) : `${head}\n${pretty(body)}`;
}

/** Reasons, the most frequent first, each with how many events have it. */
export function reasons(of: ComparedReason[]): [string, ComparedReason[]][] {
  const groups = new Map<string, ComparedReason[]>();
  for (const one of of) {
    const group = groups.get(one.reason);
    if (group) group.push(one);
    else groups.set(one.reason, [one]);
  }
  return [...groups].sort(([, a], [, b]) => b.length - a.length);
}
