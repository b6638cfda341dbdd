// Reads the metrics of a host (OpenMetrics text), and derives rates and quantiles from two readings.

export interface Sample {
  name: string;
  labels: Record<string, string>;
  value: number;
}

/** The samples of a text; lines that are none are skipped. */
export function parseMetrics(text: string): Sample[] {
  const samples: Sample[] = [];
  for (const line of text.split("\n")) {
    if (line === "" || line.startsWith("#")) continue;
    const match = /^([a-zA-Z_:][\w:]*)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})? (\S+)/.exec(line);
    if (!match) continue;
    const value = match[3] === "+Inf" ? Infinity : Number(match[3]);
    samples.push({ name: match[1]!, labels: labelsOf(match[2] ?? ""), value });
  }
  return samples;
}

function labelsOf(text: string): Record<string, string> {
  const labels: Record<string, string> = {};
  for (const match of text.matchAll(/([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g)) {
    labels[match[1]!] = match[2]!.replace(/\\(.)/g, (_, one: string) => (one === "n" ? "\n" : one));
  }
  return labels;
}

/** The counters of a stage in one reading. */
export interface StageCounters {
  /** Settled deliveries by outcome. */
  outcomes: Record<string, number>;
  /** Times from the receipt of a message to its acknowledgement. */
  durations: Buckets;
  /** Times for which messages waited for the stage. */
  waits: Buckets;
}

/** Upper bounds of buckets in seconds, with cumulative counts. */
export type Buckets = [number, number][];

export interface Reading {
  at: number;
  stages: Record<string, StageCounters>;
}

/** What the console needs of the metrics. `namespace`: whose, if the host serves several. */
export function readStages(samples: Sample[], at: number, namespace?: string): Reading {
  const stages: Record<string, StageCounters> = {};
  for (const { name, labels, value } of samples) {
    const { stage, outcome, le } = labels;
    if (!stage || (namespace && labels["namespace"] && labels["namespace"] !== namespace)) continue;
    const one = (stages[stage] ??= { outcomes: {}, durations: [], waits: [] });
    if (name === "postrider_deliveries_total" && outcome) one.outcomes[outcome] = value;
    if (!le) continue;
    const bucket: [number, number] = [le === "+Inf" ? Infinity : Number(le), value];
    if (name === "postrider_delivery_duration_seconds_bucket") one.durations.push(bucket);
    if (name === "postrider_queue_wait_seconds_bucket") one.waits.push(bucket);
  }
  for (const { durations, waits } of Object.values(stages)) {
    for (const buckets of [durations, waits]) buckets.sort((a, b) => a[0] - b[0]);
  }
  return { at, stages };
}

export interface StageRates {
  /** Settled deliveries per second. */
  perSecond: number;
  /** Dead letters and retries per second. */
  failedPerSecond: number;
  /** 95 % of the messages took at most this, milliseconds; none without messages. */
  p95Ms: number | null;
  /** 95 % of the messages waited for at most this, milliseconds. */
  waitP95Ms: number | null;
}

/** What happened between two readings; none if there is no earlier one, or the host was restarted. */
export function ratesBetween(before: Reading, after: Reading, stage: string): StageRates | null {
  const [old, now] = [before.stages[stage], after.stages[stage]];
  const seconds = (after.at - before.at) / 1000;
  if (!old || !now || seconds <= 0) return null;
  const sum = (one: StageCounters, names: string[]) =>
    names.reduce((total, name) => total + (one.outcomes[name] ?? 0), 0);
  const settled = ["done", "skipped", "dead-lettered"];
  const failed = ["retried", "dead-lettered"];
  const difference = (names: string[]) => sum(now, names) - sum(old, names);
  if (difference(settled) < 0) return null;
  return {
    perSecond: difference(settled) / seconds,
    failedPerSecond: Math.max(0, difference(failed)) / seconds,
    p95Ms: quantile(0.95, old.durations, now.durations),
    waitP95Ms: quantile(0.95, old.waits, now.waits),
  };
}

/** A quantile of what was added to a histogram, in milliseconds, interpolated in its bucket. */
export function quantile(
  share: number,
  before: Buckets,
  after: Buckets,
): number | null {
  const old = new Map(before);
  const added = after.map(([bound, total]): [number, number] => [bound, total - (old.get(bound) ?? 0)]);
  const all = added.at(-1)?.[1] ?? 0;
  if (all <= 0) return null;
  const wanted = share * all;
  let [lower, below] = [0, 0];
  for (const [bound, total] of added) {
    if (total >= wanted) {
      if (bound === Infinity) return lower * 1000;
      const part = total > below ? (wanted - below) / (total - below) : 1;
      return (lower + (bound - lower) * part) * 1000;
    }
    [lower, below] = [bound, total];
  }
  return lower * 1000;
}
