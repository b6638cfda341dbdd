// One dead letter: why it failed, what it contains, and what may be done about it.

import { useSignal } from "@preact/signals";
import { post, send } from "../../api/client.ts";
import { refresh, usePoll } from "../../api/poll.ts";
import type { DeadLetter } from "../../api/types.ts";
import { splitKey } from "../../lib/format.ts";
import { raw } from "../../lib/json.ts";
import { href } from "../../lib/router.ts";
import { missing } from "../../session.ts";
import { Action, Copy, Digest, Facts, ProblemNote, Section, Skeleton, Status, Time } from "../../ui/basics.tsx";
import { ask, say } from "../../ui/dialog.tsx";
import { Payload } from "../../ui/json.tsx";
import { DetailHead } from "../../ui/list.tsx";
import { tracesOf } from "../../ui/trace.tsx";
import { Attempts, EventLink } from "../orders/lanes.tsx";
import { Editor } from "./editor.tsx";
import { resultOf, type Result } from "./results.ts";

/** How often a dead letter is read again, milliseconds: after a replay its result appears. */
const READ_MS = 2_000;

interface Known {
  letter: DeadLetter;
  data: string | null;
}

export function Letter({ id }: { id: string }) {
  const at = `dead-letters/${encodeURIComponent(id)}`;
  const known = usePoll<Known>(`dead-letters/one:${id}`, READ_MS, async () => {
    const { text } = await send(at);
    return { letter: JSON.parse(text) as DeadLetter, data: raw(text, "data") };
  });
  const editing = useSignal(false);
  const letter = known.data?.letter;
  return (
    <>
      <DetailHead view="dead-letters" title={letter?.code ?? id} label={`Dead letter ${id}`}>
        {letter?.status === "open" && (
          <Actions letter={letter} onEdit={() => (editing.value = true)} />
        )}
      </DetailHead>
      <div class="detail-body">
        <ProblemNote problem={known.problem} />
        {!letter && !known.problem && <Skeleton lines={9} />}
        {letter && <Body letter={letter} data={known.data!.data} />}
      </div>
      {letter && editing.value && (
        <Editor letter={letter} data={known.data!.data} onClose={() => (editing.value = false)} />
      )}
    </>
  );
}

function Actions({ letter, onEdit }: { letter: DeadLetter; onEdit: () => void }) {
  const off = missing("operate", letter.stage);
  const replay = () =>
    ask({
      title: `Replay dead letter ${letter.id}?`,
      text: "The same event runs again, with all its attempts. If it fails again, it becomes a new dead letter.",
      action: "Replay",
      run: async () => {
        await post(`dead-letters/${letter.id}/replay`);
        say(`Dead letter ${letter.id} runs again`);
        refresh("dead-letters");
      },
    });
  const discard = () =>
    ask({
      title: `Discard dead letter ${letter.id}?`,
      text: "The stage will not process this event. This cannot be taken back.",
      action: "Discard",
      kind: "danger",
      reason: "required",
      run: async (reason) => {
        await post(`dead-letters/${letter.id}/discard`, { reason });
        say(`Dead letter ${letter.id} was discarded`);
        refresh("dead-letters");
      },
    });
  return (
    <>
      <Action label="Replay" icon="replay" kind="primary" off={off} onClick={replay} />
      <Action
        label="Edit"
        icon="edit"
        off={off ?? missing("payloads")}
        onClick={onEdit}
      />
      <Action label="Discard" kind="danger" off={off} onClick={discard} />
    </>
  );
}

function Body({ letter, data }: { letter: DeadLetter; data: string | null }) {
  const subject = letter.subject_key ? splitKey(letter.subject_key) : null;
  const kind = subject && subject.kind !== "order" ? subject.kind : null;
  return (
    <>
      {letter.status === "replayed" && <Replayed letter={letter} />}
      {letter.status === "discarded" && (
        <div class="note">
          <div>
            <Status value="discarded" /> <Time at={letter.settled_at_ms} />
            {letter.note && <div class="wrap">{letter.note}</div>}
          </div>
        </div>
      )}
      <Section title="Failure">
        <p class="wrap">{letter.message}</p>
        <Facts
          of={[
            ["Status", <Status value={letter.status} />],
            ["Stage", <a href={href("pipeline", letter.stage)}>{letter.stage}</a>],
            ["Code", <code class="bad-text">{letter.code}</code>],
            ["Dead since", <Time at={letter.dead_lettered_at_ms} />],
            [
              "Cause",
              <a class="wrap" href={href("dead-letters", null, { group: letter.group.id })}>
                {letter.group.fingerprint}
              </a>,
            ],
            ["Plugin", <Digest value={letter.digest} />],
          ]}
        />
      </Section>
      <Section title="Attempts">
        {letter.attempts.length > 0 ? (
          <Attempts failures={letter.attempts} />
        ) : (
          <p class="muted">The stage was not called.</p>
        )}
      </Section>
      <Section title="Event">
        <Facts
          of={[
            ["Type", letter.event.type],
            [
              "Subject",
              subject ? (
                <a href={href("orders", subject.id, { kind })}>{letter.subject_key}</a>
              ) : (
                letter.event.subject
              ),
            ],
            ["Id", <EventLink id={letter.event.id} source={letter.event.source} />],
            ["Source", letter.event.source],
            ["Happened", <Time at={letter.event.time_ms} />],
            ["Expires", <Time at={letter.expires_at_ms} />],
            ["Content type", letter.event.content_type],
            [
              "Chain",
              <a class="id" href={href("events", null, { correlation: letter.correlation_id })}>
                {letter.correlation_id}
              </a>,
            ],
            ["Trace", tracesOf([letter.event.attributes["traceparent"]])],
            ...Object.entries(letter.event.attributes).map(
              ([name, value]): [string, preact.ComponentChildren] => [name, <Copy text={value} />],
            ),
          ]}
        />
        <Payload raw={data} unreadable={letter.unreadable} />
      </Section>
    </>
  );
}

const WORDS: Record<Result, [string, string]> = {
  succeeded: ["good", "The replay succeeded."],
  "failed again": ["bad", "The replay failed again. It is a new dead letter of this cause or another."],
  running: ["", "The replay is under way: it waits, runs, or is retried."],
  skipped: ["warn", "The replay was skipped: the version does not consume the event, or its subject was cancelled."],
  unknown: ["", "The result is not known: the delivery was deleted by retention."],
};

/** What became of the replay, as the store says. */
function Replayed({ letter }: { letter: DeadLetter }) {
  const successor = letter.replayed_as;
  const [tone, words] = WORDS[resultOf(successor)];
  const delivery = successor?.delivery;
  return (
    <div class={`note ${tone}`} role="status">
      <div>
        <strong>{words}</strong>
        <div class="wrap">
          Replayed <Time at={letter.settled_at_ms} />
          {successor?.edited ? ", with another body, as " : " as "}
          {successor && <EventLink id={successor.event.id} source={successor.event.source} />}
          {delivery && (
            <>
              : <Status value={delivery.status} />, attempt {delivery.attempt} of round{" "}
              {delivery.round}
              {delivery.host && <> on {delivery.host}</>}
            </>
          )}
        </div>
      </div>
    </div>
  );
}
