// What became of replayed dead letters: a job says that they were sent again, not that they succeeded.

import { get } from "../../api/client.ts";
import type { DeadLetter, DeadLetterSummary, Job, Page, Successor } from "../../api/types.ts";

export type Result = "succeeded" | "failed again" | "running" | "skipped" | "unknown";

/** The result of one replay. */
export function resultOf(successor: Successor | null | undefined): Result {
  switch (successor?.delivery?.status) {
    case "done":
    case "replaced":
      return "succeeded";
    case "dead":
      return "failed again";
    case "open":
      return "running";
    case "skipped":
      return "skipped";
    default:
      return "unknown";
  }
}

/** Dead letters of a job that are looked at; each is a request. */
const SAMPLE = 100;
const AT_A_TIME = 4;

export interface Outcome {
  looked: number;
  counts: Partial<Record<Result, number>>;
}

/** Looks at the newest dead letters that a job replayed. */
export async function outcomeOf(job: Job): Promise<Outcome> {
  const { stage, code, group, subject, since_ms } = job.filter;
  const query = { stage, code, group, subject, since: since_ms, status: "replayed", limit: SAMPLE };
  const found = await get<Page<DeadLetterSummary>>("dead-letters", {
    query: { ...query, until: job.filter.until_ms ?? job.started_at_ms ?? job.created_at_ms },
  });
  const began = job.started_at_ms ?? job.created_at_ms;
  const ended = job.ended_at_ms ?? Infinity;
  const own = found.items.filter(
    ({ settled_at_ms: at }) => at != null && at >= began && at <= ended + 1,
  );
  const results = await inTurns(own, async (one) => {
    return resultOf((await get<DeadLetter>(`dead-letters/${one.id}`)).replayed_as);
  });
  const counts: Outcome["counts"] = {};
  for (const result of results) counts[result] = (counts[result] ?? 0) + 1;
  return { looked: own.length, counts };
}

/** Does something for each of many, a few at a time. */
async function inTurns<T, R>(all: T[], work: (one: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  let next = 0;
  const worker = async () => {
    while (next < all.length) {
      const place = next++;
      results[place] = await work(all[place]!);
    }
  };
  await Promise.all(Array.from({ length: AT_A_TIME }, worker));
  return results;
}
