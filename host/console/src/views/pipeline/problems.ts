// What needs attention, worst first, from what the host says of itself.

import type {
  DeadLetterGroup,
  PluginStatus,
  Readiness,
  StageStatus,
  Topology,
} from "../../api/types.ts";
import { plural } from "../../lib/format.ts";
import type { View } from "../../lib/router.ts";

export interface Finding {
  level: "bad" | "warn";
  title: string;
  detail: string;
  at?: number | null;
  to?: { view: View; id?: string; query?: Record<string, string> };
}

export interface Known {
  readiness: Readiness | null;
  stages: StageStatus[];
  groups: DeadLetterGroup[];
  plugins: PluginStatus[];
  topology: Topology | null;
}

export function findings({ readiness, stages, groups, plugins, topology }: Known): Finding[] {
  const found: Finding[] = [];
  const bad = (one: Omit<Finding, "level">) => found.push({ level: "bad", ...one });
  const warn = (one: Omit<Finding, "level">) => found.push({ level: "warn", ...one });
  if (readiness) {
    if (readiness.stopping) warn({ title: "The host is stopping", detail: "" });
    if (readiness.store) bad({ title: "The store does not answer", detail: readiness.store });
    if (readiness.broker) bad({ title: "The broker does not answer", detail: readiness.broker });
    for (const { task, reason } of readiness.failing_tasks) {
      bad({ title: `Background task ${task} is failing`, detail: reason, to: { view: "system" } });
    }
    for (const stage of readiness.stages_without_plugin) {
      bad({ title: `${stage} has no plugin`, detail: "Its messages wait.", to: at(stage) });
    }
    for (const stage of readiness.stages_without_host) {
      if (readiness.stages_without_plugin.includes(stage)) continue;
      bad({ title: `${stage} runs on no host`, detail: "Its messages wait.", to: at(stage) });
    }
    for (const stage of readiness.not_consuming) {
      bad({ title: `${stage} does not consume its queue`, detail: "", to: at(stage) });
    }
    for (const { file, error } of readiness.skipped_plugins) {
      bad({ title: `Plugin ${file} was refused`, detail: error, to: { view: "plugins", id: file } });
    }
  }
  for (const stage of stages) {
    if (stage.breaker === "closed") continue;
    bad({
      title: `Circuit breaker of ${stage.stage} is ${stage.breaker}`,
      detail: stage.breaker_reason ?? "",
      at: stage.breaker_opened_at_ms ?? null,
      to: at(stage.stage),
    });
  }
  for (const plugin of plugins) {
    const name = plugin.stage ?? plugin.file ?? "?";
    const to = { view: "plugins", id: plugin.stage ?? plugin.file ?? "" } as const;
    const skipped = readiness?.skipped_plugins.some((one) => one.file === plugin.file);
    if (plugin.last_error && !skipped) {
      bad({ title: `Newest plugin of ${name} was refused`, detail: plugin.last_error, to });
    }
    if (plugin.rolled_back) {
      warn({ title: `${name} was rolled back`, detail: plugin.rolled_back, to });
    }
  }
  const open = groups.filter((group) => group.open > 0).sort((a, b) => b.open - a.open);
  for (const group of open.slice(0, 3)) {
    bad({
      title: `${plural(group.open, "dead letter")} of ${group.stage}: ${group.code}`,
      detail: group.fingerprint,
      at: group.last_at_ms,
      to: { view: "dead-letters", query: { group: group.id } },
    });
  }
  if (open.length > 3) {
    const rest = open.slice(3).reduce((sum, group) => sum + group.open, 0);
    const title = `${plural(rest, "dead letter")} with ${plural(open.length - 3, "other cause")}`;
    bad({ title, detail: "", to: { view: "dead-letters" } });
  }
  for (const stage of stages) {
    if (stage.control === "running") continue;
    warn({
      title: `${stage.stage} is ${stage.control}`,
      detail: stage.reason ?? "No reason was given.",
      at: stage.since_ms ?? null,
      to: at(stage.stage),
    });
  }
  const unrouted = readiness?.unrouted ?? [];
  if (unrouted.length > 0) {
    const events = unrouted.reduce((sum, one) => sum + one.count, 0);
    const since = Math.min(...unrouted.map((one) => one.since_ms));
    const types = unrouted.map((one) => one.event_type).join(", ");
    warn({
      title: `${plural(events, "event")} without a stage that consumes the type`,
      detail: `${types}. Their subjects are not finished; they are routed when a stage appears.`,
      at: since,
      to: { view: "events", query: { type: unrouted[0]!.event_type } },
    });
  }
  for (const warning of topology?.warnings ?? []) {
    warn({ title: "Doubtful topology", detail: warning, to: { view: "plugins" } });
  }
  return found.sort((a, b) => Number(b.level === "bad") - Number(a.level === "bad"));
}

function at(stage: string): { view: View; id: string } {
  return { view: "pipeline", id: stage };
}
