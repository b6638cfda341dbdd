// Hosts, as the load history of plugins knows them. Pure.

import type { PluginLoad } from "../../api/types.ts";

export interface KnownHost {
  host: string;
  stages: string[];
  /** Its last load. */
  at: number;
}

/** The hosts, the one that loaded something last first. */
export function hostsOf(loads: PluginLoad[]): KnownHost[] {
  const hosts = new Map<string, { stages: Set<string>; at: number }>();
  for (const load of loads) {
    const one = hosts.get(load.host) ?? { stages: new Set<string>(), at: 0 };
    one.stages.add(load.stage);
    one.at = Math.max(one.at, load.loaded_at_ms);
    hosts.set(load.host, one);
  }
  const list = [...hosts].map(([host, { stages, at }]) => ({ host, stages: [...stages].sort(), at }));
  return list.sort((a, b) => b.at - a.at);
}
