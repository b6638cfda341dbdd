// Replays or discards many dead letters: first how many, then how fast, then a job with its progress.

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { asProblem, pages, post } from "../../api/client.ts";
import { refresh } from "../../api/poll.ts";
import type { DeadLetterGroup, Job, Problem } from "../../api/types.ts";
import { count, plural } from "../../lib/format.ts";
import { jsonProblem } from "../../lib/json.ts";
import { ProblemNote } from "../../ui/basics.tsx";
import { Dialog } from "../../ui/dialog.tsx";
import { describe, type Filter } from "./filter.ts";
import { Progress } from "./jobs.tsx";

export type Verb = "replay" | "discard";

/** Groups that are counted at most: 4,000. */
const PAGES_MAX = 20;
/** Dead letters per second, as the API's default. */
const RATE = 100;

interface Counted {
  open: number;
  groups: number;
  more: boolean;
}

async function countOpen(filter: Filter): Promise<Counted> {
  const { all: _, ...query } = filter;
  const found = await pages<DeadLetterGroup>(
    "dead-letters/groups",
    { ...query, status: "open", limit: 200 },
    PAGES_MAX,
  );
  const groups = found.items.filter((group) => group.open > 0);
  const open = groups.reduce((sum, group) => sum + group.open, 0);
  return { open, groups: groups.length, more: found.more };
}

export function Bulk(props: { verb: Verb; filter: Filter; onClose: () => void }) {
  const { verb, filter, onClose } = props;
  const counted = useSignal<Counted | null>(null);
  const problem = useSignal<Problem | null>(null);
  const job = useSignal<Job | null>(null);
  useEffect(() => {
    countOpen(filter).then(
      (found) => (counted.value = found),
      (error: unknown) => (problem.value = asProblem(error)),
    );
  }, []);
  const title = verb === "replay" ? "Replay dead letters" : "Discard dead letters";
  return (
    <Dialog title={title} onClose={onClose}>
      {job.value ? (
        <>
          <Progress job={job.value} />
          <footer>
            <button type="button" onClick={onClose}>
              Close
            </button>
          </footer>
        </>
      ) : (
        <Form
          verb={verb}
          filter={filter}
          counted={counted.value}
          problem={problem.value}
          onClose={onClose}
          onStarted={(one) => (job.value = one)}
        />
      )}
    </Dialog>
  );
}

function Form(props: {
  verb: Verb;
  filter: Filter;
  counted: Counted | null;
  problem: Problem | null;
  onClose: () => void;
  onStarted: (job: Job) => void;
}) {
  const { verb, filter, counted, onClose } = props;
  const speed = useSignal(String(RATE));
  const edit = useSignal("");
  const reason = useSignal("");
  const busy = useSignal(false);
  const refused = useSignal<Problem | null>(null);
  const editProblem = edit.value.trim() === "" ? null : jsonProblem(edit.value);
  const submit = async (event: Event) => {
    event.preventDefault();
    if (busy.value || editProblem) return;
    busy.value = true;
    refused.value = null;
    const fields = [
      `"filter":${JSON.stringify(filter)}`,
      `"rate_per_second":${Number(speed.value)}`,
    ];
    if (verb === "discard") fields.push(`"reason":${JSON.stringify(reason.value.trim())}`);
    // The patch is sent as it was written: numbers keep their digits.
    if (edit.value.trim() !== "") fields.push(`"edit":${edit.value}`);
    try {
      props.onStarted(await post<Job>(`dead-letters/${verb}`, `{${fields.join(",")}}`));
      refresh("dead-letters");
    } catch (error) {
      refused.value = asProblem(error);
    }
    busy.value = false;
  };
  const amount = counted ? count(counted.open) + (counted.more ? "+" : "") : "…";
  return (
    <form onSubmit={submit}>
      <div>
        <div class="big-number" aria-live="polite">
          {amount}
        </div>
        <div class="prose">
          {describe(filter)}
          {counted ? `, with ${plural(counted.groups, "cause")}` : ""}. Nothing has been changed yet.
        </div>
      </div>
      <ProblemNote problem={props.problem} what="Count" />
      <div class="fields">
        <label class="field">
          At most per second
          <input
            type="number"
            min="1"
            max="10000"
            required
            value={speed}
            onInput={(event) => (speed.value = event.currentTarget.value)}
          />
        </label>
      </div>
      {verb === "replay" ? (
        <label class="field">
          Change each body (optional JSON merge patch; null removes a field)
          <textarea
            rows={3}
            spellcheck={false}
            placeholder='{ "force_fail": null }'
            aria-invalid={editProblem ? "true" : undefined}
            value={edit}
            onInput={(event) => (edit.value = event.currentTarget.value)}
          />
          {editProblem && <span class="bad-text">{editProblem}</span>}
        </label>
      ) : (
        <label class="field">
          Reason
          <input
            type="text"
            required
            value={reason}
            onInput={(event) => (reason.value = event.currentTarget.value)}
          />
        </label>
      )}
      <p class="small muted">
        {verb === "replay"
          ? "Each runs again with all its attempts. One that fails again becomes a new dead letter."
          : "Discarded events are not processed. This cannot be taken back."}
      </p>
      <ProblemNote problem={refused.value} />
      <footer>
        <button type="button" onClick={onClose}>
          Close
        </button>
        <button
          type="submit"
          class={verb === "replay" ? "primary" : "danger"}
          disabled={busy.value || counted?.open === 0 || editProblem !== null}
        >
          {verb === "replay" ? "Replay" : "Discard"} {amount}
        </button>
      </footer>
    </form>
  );
}
