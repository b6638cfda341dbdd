// Jobs on many dead letters: what runs, how far it is, and what came of it.

import { post } from "../../api/client.ts";
import { refresh, useGet, usePoll } from "../../api/poll.ts";
import type { Job, Page } from "../../api/types.ts";
import { count, plural } from "../../lib/format.ts";
import { missing } from "../../session.ts";
import { Action, Empty, ProblemNote, Section, Skeleton, Status, Time } from "../../ui/basics.tsx";
import { say } from "../../ui/dialog.tsx";
import { describe, type Filter } from "./filter.ts";
import { outcomeOf, type Outcome, type Result } from "./results.ts";

const RUNNING_MS = 1_000;
const LIST_MS = 5_000;

function runs(job: Job): boolean {
  return job.state === "waiting" || job.state === "running";
}

/** The jobs of the host, newest first. */
export function Jobs() {
  const jobs = useGet<Page<Job>>("dead-letters/jobs", LIST_MS);
  const list = [...(jobs.data?.items ?? [])].sort((a, b) => b.created_at_ms - a.created_at_ms);
  return (
    <div class="detail-body">
      <Section title="Jobs" side="of this host, until it is restarted">
        <ProblemNote problem={jobs.problem} />
        {!jobs.data && !jobs.problem && <Skeleton lines={3} />}
        {jobs.data && list.length === 0 && (
          <Empty title="No jobs yet">
            Choose a cause, then replay or discard all its letters. The progress appears here, and
            what became of each replay.
          </Empty>
        )}
        {list.slice(0, 20).map((job) => (
          <div class="card job" key={job.id}>
            <Progress job={job} />
          </div>
        ))}
      </Section>
    </div>
  );
}

/** A job that is read again until it has ended. */
export function Progress({ job: known }: { job: Job }) {
  const ended = !runs(known);
  const read = useGet<Job>(ended ? null : `dead-letters/jobs/${known.id}`, RUNNING_MS);
  const job = read.data ?? known;
  const settled = job.done + job.skipped + job.failed;
  const share = job.total === 0 ? 1 : Math.min(1, settled / job.total);
  const cancel = async () => {
    try {
      await post(`dead-letters/jobs/${job.id}/cancel`);
      refresh("dead-letters/jobs");
    } catch (error) {
      say(error instanceof Error ? error.message : String(error), true);
    }
  };
  return (
    <div class="job-body">
      <div class="job-head">
        <Status value={job.state} />
        <strong>{job.action === "replay" ? "Replay" : "Discard"}</strong>
        <span class="muted wrap">{describe(filterIn(job))}</span>
        <span class="job-side">
          <Time at={job.created_at_ms} />
          {runs(job) && <Action label="Stop" off={missing("operate")} onClick={cancel} />}
        </span>
      </div>
      <div
        class="progress"
        role="progressbar"
        aria-label="Progress of the job"
        aria-valuenow={Math.round(share * 100)}
        aria-valuemin={0}
        aria-valuemax={100}
      >
        <div style={{ width: `${share * 100}%` }} />
      </div>
      <div class="num small muted" aria-live="polite">
        {count(job.done)} of {count(job.total)} {job.action === "replay" ? "sent again" : "discarded"}
        {job.skipped > 0 && `, ${count(job.skipped)} settled by others`}
        {job.failed > 0 && `, ${count(job.failed)} not possible`}, at most{" "}
        {count(job.rate_per_second)}/s
      </div>
      {job.reason && <div class="small wrap">Reason: {job.reason}</div>}
      {job.failures.map((one) => (
        <div class="small wrap bad-text" key={one.id}>
          {one.id}: {one.reason}
        </div>
      ))}
      {job.action === "replay" && !runs(job) && job.done > 0 && <Results job={job} />}
    </div>
  );
}

function filterIn(job: Job): Filter {
  const { stage, code, group, subject } = job.filter;
  const filter: Filter = {};
  if (stage) filter.stage = stage;
  if (code) filter.code = code;
  if (group) filter.group = group;
  if (subject) filter.subject = subject;
  return Object.keys(filter).length === 0 ? { all: true } : filter;
}

const ICONS: Record<Result, string> = {
  succeeded: "done",
  "failed again": "dead",
  running: "open",
  skipped: "skipped",
  unknown: "info",
};

/** What became of the replayed letters. It is read again while some of them run. */
function Results({ job }: { job: Job }) {
  const outcome = usePoll<Outcome>(`outcome:${job.id}`, 0, () => outcomeOf(job));
  const { data } = outcome;
  const running = data?.counts.running ?? 0;
  usePoll(running > 0 ? `outcome-again:${job.id}` : null, 3_000, async () => outcome.refresh());
  if (!data) return <div class="small muted">{outcome.problem ? "" : "Looking at the results…"}</div>;
  const entries = Object.entries(data.counts) as [Result, number][];
  return (
    <div class="results small" aria-live="polite">
      {entries.map(([result, amount]) => (
        <Status
          key={result}
          value={`${count(amount)} ${result}`}
          icon={ICONS[result]}
          tone={result === "succeeded" ? "good" : result === "failed again" ? "bad" : "busy"}
        />
      ))}
      {data.looked < job.done && (
        <span class="muted">of the newest {plural(data.looked, "letter")} that were looked at</span>
      )}
    </div>
  );
}
