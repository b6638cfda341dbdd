// Figures of the stages over the last minutes. The host counts since it started; the console derives
// rates from what it reads while the page is open.

import { signal } from "@preact/signals";
import { ApiError, send } from "../../api/client.ts";
import { usePoll } from "../../api/poll.ts";
import type { StageStatus } from "../../api/types.ts";
import { parseMetrics, ratesBetween, readStages, type Reading, type StageRates } from "../../lib/metrics.ts";

export const METRICS_MS = 3_000;
/** The second reading comes sooner: rates need two. */
const SECOND_MS = 1_000;
/** Rates are those of the last half minute, so that they do not jump. */
const WINDOW_MS = 30_000;
/** Five minutes, for the sparkline. */
const KEPT = 100;

const readings = signal<Reading[]>([]);

async function read(): Promise<Reading> {
  const { text } = await send("metrics");
  const reading = readStages(parseMetrics(text), Date.now(), namespaceOf(text));
  const last = readings.peek().at(-1);
  // After a restart the counters start at zero again, and so do the rates.
  const restarted = last && Object.keys(last.stages).some((name) => isLower(last, reading, name));
  readings.value = [...(restarted ? [] : readings.peek()).slice(1 - KEPT), reading];
  return reading;
}

/** The first namespace of several: the console at the root shows it. */
function namespaceOf(text: string): string | undefined {
  return /\bnamespace="([^"]*)"/.exec(text)?.[1];
}

function isLower(before: Reading, after: Reading, stage: string): boolean {
  const total = (one: Reading) =>
    Object.values(one.stages[stage]?.outcomes ?? {}).reduce((a, b) => a + b, 0);
  return total(after) < total(before);
}

/** Keeps the readings up to date; whether the principal may see them. */
export function useReadings(): { allowed: boolean; ready: boolean } {
  const interval = readings.value.length < 2 ? SECOND_MS : METRICS_MS;
  const { problem, data } = usePoll("metrics", interval, async () => {
    try {
      return await read();
    } catch (error) {
      if (error instanceof ApiError && error.status === 403) return null;
      throw error;
    }
  });
  return { allowed: data !== null || problem === null, ready: readings.value.length > 1 };
}

/** The rates of a stage; none before the second reading. */
export function ratesOf(stage: string): StageRates | null {
  const all = readings.value;
  const last = all.at(-1);
  if (!last) return null;
  const first = all.find((one) => last.at - one.at <= WINDOW_MS);
  return first && first !== last ? ratesBetween(first, last, stage) : null;
}

/**
 * The same for all hosts. The metrics are those of the host that answers, so what runs elsewhere has the rates
 * that its hosts report.
 */
export function ratesOfAll({ stage, hosts, rates }: StageStatus): StageRates | null {
  const own = ratesOf(stage);
  if (own && hosts.length < 2) return own;
  if (hosts.length === 0) return null;
  const { per_second: perSecond, failed_per_second: failedPerSecond, p95_ms } = rates;
  return { perSecond, failedPerSecond, p95Ms: p95_ms ?? null, waitP95Ms: own?.waitP95Ms ?? null };
}

/** Deliveries per second between consecutive readings, oldest first. */
export function history(stage: string): number[] {
  const all = readings.value;
  return all.slice(1).map((one, place) => ratesBetween(all[place]!, one, stage)?.perSecond ?? 0);
}
