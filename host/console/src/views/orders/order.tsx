// One order: its status, its history as bars, its body; cancel.

import { useEffect } from "preact/hooks";
import { path, post, send } from "../../api/client.ts";
import { readEvents, type EventPage, type EventRow } from "../../api/events.ts";
import { refresh, usePoll } from "../../api/poll.ts";
import { follow } from "../../api/stream.ts";
import type { OrderReceipt, Subject, SubjectKind } from "../../api/types.ts";
import { capital, duration } from "../../lib/format.ts";
import { raw } from "../../lib/json.ts";
import { href } from "../../lib/router.ts";
import { can } from "../../session.ts";
import { Action, Facts, ProblemNote, Section, Skeleton, Status, Time } from "../../ui/basics.tsx";
import { ask, say } from "../../ui/dialog.tsx";
import { Payload } from "../../ui/json.tsx";
import { DetailHead } from "../../ui/list.tsx";
import { tracesOf } from "../../ui/trace.tsx";
import { Timeline } from "./lanes.tsx";

/** How often an order is read again , milliseconds. */
const READ_MS = 3_000;

/** Pages of a timeline that are read: 1,000 events. */
const PAGES_MAX = 5;

interface Known {
  subject: Subject;
  /** Its body as it was sent. */
  body: string | null;
  events: EventRow[];
  more: boolean;
}

async function read(at: string, kind: SubjectKind): Promise<Known> {
  const first = await send(at, { query: { limit: 200 } });
  const subject = JSON.parse(first.text) as Subject;
  let next = subject.next;
  for (let page = 1; next != null && page < PAGES_MAX; page += 1) {
    const { text } = await send(at, { query: { limit: 200, after: next } });
    const more = JSON.parse(text) as Subject;
    subject.timeline.push(...more.timeline);
    next = more.next;
  }
  const events = await pagesOfEvents(at);
  return { subject, body: raw(first.text, kind.name), events, more: next != null };
}

async function pagesOfEvents(at: string): Promise<EventRow[]> {
  const found: EventRow[] = [];
  let after: number | null = null;
  for (let page = 0; page < PAGES_MAX; page += 1) {
    const { items, next }: EventPage = await readEvents(`${at}/events`, { limit: 200, after });
    found.push(...items);
    if (next === null) break;
    after = next;
  }
  return found;
}

export function Order({ id, kind }: { id: string; kind: SubjectKind }) {
  const at = kind.path.replace(/^\//, "") + path`/${id}`;
  const known = usePoll<Known>(`subject:${at}`, READ_MS, () => read(at, kind));
  const { data } = known;
  const isOpen = data?.subject.timeline.some((one) => one.status === "open") ?? false;
  useEffect(() => {
    if (!data || !isOpen) return;
    // New events arrive by themselves; failed attempts are no events, so the order is read as well.
    const position = data.events.at(-1)?.seq ?? 0;
    return follow({
      at: `${at}/events`,
      from: "after",
      position,
      onMessage: () => known.refresh(),
      onEnd: () => known.refresh(),
    });
  }, [at, isOpen]);
  return (
    <>
      <DetailHead view="orders" title={id} label={capital(kind.name)}>
        {data && <Cancel id={id} at={at} kind={kind} status={data.subject.status} />}
      </DetailHead>
      <div class="detail-body">
        <ProblemNote problem={known.problem} />
        {!data && !known.problem && <Skeleton lines={9} />}
        {data && <Body known={data} kind={kind} />}
      </div>
    </>
  );
}

function Body({ known, kind }: { known: Known; kind: SubjectKind }) {
  const { subject, body, events } = known;
  const correlation = events[0]?.correlation_id;
  const took = subject.updated_at_ms - subject.created_at_ms;
  return (
    <>
      <Facts
        of={[
          ["Status", <Status value={subject.status} />],
          [
            "Customer",
            subject.customer && (
              <a href={href("orders", null, { customer: subject.customer, kind: kindQuery(kind) })}>
                {subject.customer}
              </a>
            ),
          ],
          ["Created", <Time at={subject.created_at_ms} />],
          [
            "Last change",
            <>
              <Time at={subject.updated_at_ms} />{" "}
              <span class="muted num">after {duration(took)}</span>
            </>,
          ],
          [
            "Chain",
            correlation && (
              <a class="id" href={href("events", null, { correlation })}>
                {correlation}
              </a>
            ),
          ],
          ["Trace", tracesOf(events.map((one) => one.attributes["traceparent"]))],
        ]}
      />
      <Section title="Timeline" side={<TimelineLegend />}>
        <Timeline timeline={subject.timeline} events={events} more={known.more} />
      </Section>
      <Section title={capital(kind.name)}>
        <Payload raw={body} unreadable={subject.unreadable} />
      </Section>
    </>
  );
}

function kindQuery(kind: SubjectKind): string | null {
  return kind.name === "order" ? null : kind.name;
}

function TimelineLegend() {
  const kinds: [string, string][] = [
    ["bar-wait", "waits"],
    ["bar-run", "runs"],
    ["bar-fail", "failed"],
  ];
  return (
    <span class="legend">
      {kinds.map(([name, text]) => (
        <span key={name}>
          <svg>
            <rect class={name} width="16" height="8" rx="2" />
          </svg>
          {text}
        </span>
      ))}
    </span>
  );
}

function Cancel(props: { id: string; at: string; kind: SubjectKind; status: string }) {
  const { id, at, kind, status } = props;
  if (status === "cancelled") return null;
  const cancel = () =>
    ask({
      title: `Cancel ${kind.name} ${id}?`,
      text: `It makes no further progress, and the stages undo what they did for it. This cannot be taken back.`,
      action: `Cancel ${kind.name}`,
      kind: "danger",
      reason: "optional",
      run: async (reason) => {
        const receipt = await post<OrderReceipt>(`${at}/cancel`, reason ? { reason } : {});
        say(`${capital(kind.name)} ${id} is ${receipt.status}`);
        refresh(`subject:${at}`, kind.path.replace(/^\//, ""));
      },
    });
  const may = can("submit") || can("operate");
  const off = may ? undefined : "Needs the permission `submit` or `operate`";
  return <Action label="Cancel" kind="danger" off={off} onClick={cancel} />;
}

