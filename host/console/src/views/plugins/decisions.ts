// What the versions of a stage decided, counted. Pure.

import type { Recorded } from "../../api/types.ts";

export interface Decisions {
  key: string;
  version: string | null;
  digest: string | null;
  total: number;
  /** Event types and codes, how often, and whether it is a failure; the most frequent first. */
  results: [string, number, boolean][];
}

export function decisionsOf(recorded: Recorded[]): Decisions[] {
  const versions = new Map<string, { one: Recorded; total: number; counts: Map<string, number> }>();
  for (const one of recorded) {
    const key = one.digest ?? one.version ?? "";
    const found = versions.get(key) ?? { one, total: 0, counts: new Map<string, number>() };
    versions.set(key, found);
    found.total += 1;
    for (const name of namesOf(one)) found.counts.set(name, (found.counts.get(name) ?? 0) + 1);
  }
  return [...versions].map(([key, { one, total, counts }]) => ({
    key,
    version: one.version ?? null,
    digest: one.digest ?? null,
    total,
    results: [...counts]
      .sort((a, b) => b[1] - a[1])
      .map(([name, amount]) => [name.slice(1), amount, name.startsWith("!")]),
  }));
}

/** Emitted types begin with a space, codes of failures with `!`. */
function namesOf({ outcome }: Recorded): string[] {
  if (!outcome) return [" unknown"];
  if ("dead" in outcome) return [`!${outcome.dead.code}`];
  const types = outcome.done.map((event) => ` ${event.type}`);
  return types.length > 0 ? types : [" nothing emitted"];
}
