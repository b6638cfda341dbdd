// Compares a candidate, another build of a stage's plugin, with what the stage decided. The host does it.

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { asProblem, path, send } from "../../api/client.ts";
import { now, useGet } from "../../api/poll.ts";
import type { ComparedEvent, ComparedReason, Comparison, Page, Problem, Recorded } from "../../api/types.ts";
import { reasons, shownChange } from "../../lib/compare.ts";
import { bytes, count, duration, plural, shortDigest, splitKey } from "../../lib/format.ts";
import { href } from "../../lib/router.ts";
import { can, missing } from "../../session.ts";
import { Empty, ProblemNote, Section, Status, Time, type Tone } from "../../ui/basics.tsx";
import { DiffBox, DiffLines } from "../../ui/diff.tsx";
import { Icon } from "../../ui/icons.tsx";
import { PERIODS, sinceOf } from "../../ui/list.tsx";

/** Events that are compared unless another number is chosen, and most of them. */
const LIMIT = 500;
const LIMIT_MAX = 10_000;

export function Compare({ stage }: { stage: string }) {
  const off = missing("operate", stage) ?? missing("payloads");
  const sees = can("read", stage) && can("payloads");
  const query = { limit: 1 };
  const recorded = useGet<Page<Recorded>>(
    sees ? path`stages/${stage}/recordings` : null,
    30_000,
    query,
  );
  const none = recorded.data?.items.length === 0;
  return (
    <Section title="Compare a candidate" side="with what was recorded">
      <div class="card padded compare">
        {none ? <NothingRecorded stage={stage} /> : <Runs stage={stage} off={off} />}
      </div>
    </Section>
  );
}

function NothingRecorded({ stage }: { stage: string }) {
  return (
    <Empty title={`${stage} has recorded nothing`}>
      Set <code>recording.enabled = true</code> in the configuration and restart the hosts. From then
      on they record what the stage reads and decides, and another build can be compared with it here.
    </Empty>
  );
}

interface Running {
  file: File;
  since: number;
  abort: AbortController;
}

/** The form, and what came of it. */
function Runs({ stage, off }: { stage: string; off: string | undefined }) {
  const running = useSignal<Running | null>(null);
  const result = useSignal<Comparison | null>(null);
  const refused = useSignal<Problem | null>(null);
  // The comparison ends when the view is left.
  useEffect(() => () => running.peek()?.abort.abort(), []);
  const run = async (file: File, period: string, limit: number) => {
    const abort = new AbortController();
    running.value = { file, since: Date.now(), abort };
    result.value = null;
    refused.value = null;
    try {
      const answer = await send(path`stages/${stage}/compare`, {
        method: "POST",
        query: { since: sinceOf(period), limit },
        file: { type: "application/wasm", bytes: file },
        signal: abort.signal,
      });
      result.value = JSON.parse(answer.text) as Comparison;
    } catch (error) {
      if (!abort.signal.aborted) refused.value = asProblem(error);
    }
    running.value = null;
  };
  return (
    <>
      <Form off={off} busy={running.value !== null} onRun={run} />
      <div role="status" class="compare-state">
        {running.value && <Progress running={running.value} />}
        {result.value && <Verdict of={result.value} />}
      </div>
      <ProblemNote problem={refused.value} />
      {result.value && <Details of={result.value} />}
      <p class="small muted">
        The host runs the recorded events through the candidate, which reads only what was recorded and
        calls nothing. Nothing is stored, and what serves is not affected. On the command line:{" "}
        <code class="wrap">postrider replay --stage {stage} --plugin candidate.wasm</code>
      </p>
    </>
  );
}

function Form(props: {
  off: string | undefined;
  busy: boolean;
  onRun: (file: File, period: string, limit: number) => void;
}) {
  const { off, busy } = props;
  const file = useRef<HTMLInputElement>(null);
  const period = useSignal("1h");
  const limit = useSignal(String(LIMIT));
  const submit = (event: Event) => {
    event.preventDefault();
    const chosen = file.current?.files?.[0];
    if (chosen && !busy && !off) props.onRun(chosen, period.value, Number(limit.value));
  };
  return (
    <form class="compare-form" onSubmit={submit}>
      <label class="field grow">
        Component
        <input
          ref={file}
          type="file"
          name="component"
          accept=".wasm,application/wasm"
          required
          disabled={Boolean(off)}
        />
      </label>
      <label class="field">
        Events of the
        <select
          name="period"
          value={period}
          disabled={Boolean(off)}
          onChange={(event) => (period.value = event.currentTarget.value)}
        >
          {PERIODS.map(([key, text]) => (
            <option value={key} key={key}>
              {text}
            </option>
          ))}
        </select>
      </label>
      <label class="field">
        At most
        <input
          type="number"
          name="limit"
          min={1}
          max={LIMIT_MAX}
          required
          value={limit}
          disabled={Boolean(off)}
          onInput={(event) => (limit.value = event.currentTarget.value)}
        />
      </label>
      <button
        type="submit"
        class="primary"
        aria-disabled={off || busy ? "true" : undefined}
        aria-describedby={off ? "compare-off" : undefined}
        title={off}
      >
        Compare
      </button>
      {off && (
        <p id="compare-off" class="small muted">
          {off.replaceAll("`", "")}
        </p>
      )}
    </form>
  );
}

function Progress({ running }: { running: Running }) {
  const { file, since, abort } = running;
  const seconds = Math.floor((now.value - since) / 1_000);
  return (
    <div class="compare-progress">
      <progress aria-label="Comparing" />
      <span class="wrap">
        Comparing {file.name} ({bytes(file.size)}): it is sent, compiled, and run.{" "}
        <span class="num muted" aria-hidden="true">
          {seconds > 0 && duration(seconds * 1_000)}
        </span>
      </span>
      <button type="button" onClick={() => abort.abort()}>
        Cancel
      </button>
    </div>
  );
}

/** What came of it in a sentence, and the numbers. */
function Verdict({ of }: { of: Comparison }) {
  const clean = of.different + of.unknown + of.failed === 0;
  const numbers: [string, number, Tone, string][] = [
    ["equal", of.equal, "good", "done"],
    ["different", of.different, "warn", "replaced"],
    ["unknown", of.unknown, "busy", "info"],
    ["failed", of.failed, "bad", "dead"],
  ];
  return (
    <>
      <p>
        <strong>
          {clean
            ? `${of.candidate.version} decides the same about ${plural(of.events, "event")}.`
            : of.different === 0
              ? "No decision is known to differ."
              : `${count(of.different)} of ${plural(of.events, "decision")} would differ.`}
        </strong>{" "}
        <span class="muted">
          Candidate {of.candidate.version} <span class="id">{shortDigest(of.candidate.digest)}</span>
          {of.serving && (
            <>
              , serving {of.serving.version} <span class="id">{shortDigest(of.serving.digest)}</span>
            </>
          )}
          {of.serving?.digest === of.candidate.digest && ": the same file"}
        </span>
      </p>
      <dl class="tally">
        {numbers.map(([name, amount, tone, icon]) => (
          <div key={name}>
            <dt>
              <Status value={name} tone={amount > 0 ? tone : "calm"} icon={icon} />
            </dt>
            <dd class="big-number">{count(amount)}</dd>
          </div>
        ))}
      </dl>
      {of.more && (
        <p class="small muted">
          {of.timed_out
            ? "The time for a comparison ended: later events were not compared."
            : "Later events were not compared: raise the number, or choose a shorter period."}
        </p>
      )}
    </>
  );
}

function Details({ of }: { of: Comparison }) {
  return (
    <>
      {of.different > 0 && (
        <div class="compare-list">
          <h3>
            Differences{of.differences.length < of.different && `, the first ${of.differences.length}`}
          </h3>
          <ul class="notes">
            {of.differences.map(({ event, changes }) => (
              <li class="compare-event" key={`${event.source} ${event.id} ${event.settled_at_ms}`}>
                <EventLine event={event} />
                <DiffBox label={`Changes for ${event.id}`}>
                  {changes.map(shownChange).map((change, place) => (
                    <div class="diff-part" key={place}>
                      <div class="gap">{change.what}</div>
                      <DiffLines before={change.before} after={change.after} context={1} />
                    </div>
                  ))}
                </DiffBox>
              </li>
            ))}
          </ul>
        </div>
      )}
      <Reasons title="Unknown decisions" of={of.unknowns} />
      <Reasons title="Not run" of={of.failures} />
    </>
  );
}

/** `order.created` of `order/7`, decided by 1.0.0, with links. */
function EventLine({ event }: { event: ComparedEvent }) {
  const subject = event.subject_key ? splitKey(event.subject_key) : null;
  return (
    <div class="event-line">
      <a class="id wrap" href={href("events", event.id, { from: event.source })}>
        {event.type}
      </a>
      {subject ? (
        <a
          class="wrap"
          href={href("orders", subject.id, { kind: subject.kind === "order" ? null : subject.kind })}
        >
          {event.subject_key}
        </a>
      ) : (
        <span class="wrap">{event.subject}</span>
      )}
      <span class="muted small">
        decided by {event.version ?? "?"} <Time at={event.settled_at_ms} />
      </span>
    </div>
  );
}

/** Why decisions are not known, each reason once. */
function Reasons({ title, of }: { title: string; of: ComparedReason[] }) {
  if (of.length === 0) return null;
  return (
    <div class="compare-list">
      <h3>{title}</h3>
      <ul class="notes">
        {reasons(of).map(([reason, events]) => (
          <li class="note" key={reason}>
            <Icon name="info" />
            <div>
              <div class="wrap">{reason}</div>
              <EventLine event={events[0]!.event} />
              {events.length > 1 && (
                <div class="muted small">and {plural(events.length - 1, "other event")}</div>
              )}
            </div>
          </li>
        ))}
      </ul>
    </div>
  );
}
