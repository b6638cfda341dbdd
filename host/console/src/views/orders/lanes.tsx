// The timeline: a line for each delivery, with a bar; opened, its attempts and what it emitted.

import { useMemo } from "preact/hooks";
import type { EventRow } from "../../api/events.ts";
import { now } from "../../api/poll.ts";
import type { Delivery, FailedAttempt } from "../../api/types.ts";
import { duration } from "../../lib/format.ts";
import { href } from "../../lib/router.ts";
import { Digest, Empty, Facts, Status, Time } from "../../ui/basics.tsx";
import { JsonText } from "../../ui/json.tsx";
import { laneOf, scaleOf, type Lane, type Scale } from "./timeline.ts";

export function Timeline(props: { timeline: Delivery[]; events: EventRow[]; more: boolean }) {
  const { timeline, events, more } = props;
  const open = timeline.some((one) => one.settled_at_ms == null);
  // Only what is open grows with the time.
  const time = open ? now.value : 0;
  const lanes = useMemo(() => timeline.map((one) => laneOf(one, time)), [timeline, time]);
  const scale = useMemo(() => scaleOf(lanes), [lanes]);
  const byId = useMemo(() => new Map(events.map((one) => [one.id, one])), [events]);
  if (timeline.length === 0) {
    return (
      <Empty title="No deliveries yet">
        No stage has received an event of it: see the pipeline for events that wait for a stage.
      </Empty>
    );
  }
  return (
    <div class="card timeline">
      <div class="axis">
        <span />
        <span>Stage and event</span>
        <span>Status</span>
        <span class="ends num">
          <span>0</span>
          <span>{duration(scale.end - scale.start)}</span>
        </span>
        <span class="right queue">Queue</span>
        <span class="right">Run</span>
      </div>
      {lanes.map((lane) => (
        <Row
          key={`${lane.delivery.stage} ${lane.delivery.event.source} ${lane.delivery.event.id}`}
          lane={lane}
          scale={scale}
          events={byId}
          subject={events[0]?.subject_key}
        />
      ))}
      {more && <p class="list-foot">The timeline is longer; the rest is in the event log.</p>}
    </div>
  );
}

function Row(props: {
  lane: Lane;
  scale: Scale;
  events: Map<string, EventRow>;
  subject: string | null | undefined;
}) {
  const { lane, scale, events, subject } = props;
  const { delivery } = lane;
  const attempts = new Set(delivery.failures.map((one) => `${one.round}.${one.attempt}`)).size;
  return (
    <details class="lane" open={delivery.status === "dead"}>
      <summary>
        <span class="lane-name">
          <div>
            <strong>{delivery.stage}</strong>
          </div>
          <div class="type" title={delivery.event.type}>
            {delivery.event.type}
          </div>
        </span>
        <span class="lane-status">
          <Status value={delivery.status} />
          {attempts > 0 && <div class="muted small num">{attempts} failed</div>}
        </span>
        <Bars lane={lane} scale={scale} />
        <span class="num right nowrap queue">{duration(lane.queueMs)}</span>
        <span class="num right nowrap">{lane.runMs > 0 ? duration(lane.runMs) : "–"}</span>
      </summary>
      <div class="lane-body">
        <Facts
          of={[
            ["Event", <EventLink id={delivery.event.id} source={delivery.event.source} />],
            ["Due", <Time at={delivery.created_at_ms} />],
            ["Settled", <Time at={delivery.settled_at_ms} none="not yet" />],
            ["Attempt", <span class="num">{attemptText(delivery)}</span>],
            [
              "Plugin",
              delivery.plugin.version || delivery.plugin.digest ? (
                <>
                  {delivery.plugin.version} <Digest value={delivery.plugin.digest} />
                </>
              ) : null,
            ],
            ["Host", delivery.host],
          ]}
        />
        {delivery.failures.length > 0 && <Attempts failures={delivery.failures} />}
        {delivery.status === "dead" && subject && (
          <a href={href("dead-letters", null, { subject, stage: delivery.stage, view: "letters" })}>
            Its dead letter
          </a>
        )}
        {delivery.emitted.map((id) => (
          <Emitted key={id} id={id} event={events.get(id)} />
        ))}
      </div>
    </details>
  );
}

function attemptText({ attempt, round }: Delivery): string {
  return round > 1 ? `${attempt} of round ${round}` : String(attempt);
}

export function EventLink({ id, source }: { id: string; source: string }) {
  return (
    <a class="id wrap" href={href("events", id, { from: source })}>
      {id}
    </a>
  );
}

/** The failed attempts, oldest first. */
export function Attempts({ failures }: { failures: FailedAttempt[] }) {
  return (
    <ol class="attempts">
      {failures.map((one) => (
        <li key={`${one.round}.${one.attempt}.${one.at_ms}`}>
          <div class="attempt">
            <span class="status bad num">
              {one.round > 1 ? `${one.round}.` : ""}
              {one.attempt} failed
            </span>
            <Time at={one.at_ms} />
            <span class="wrap">
              <code class="bad-text">{one.code}</code> {one.message}{" "}
              <span class="muted num">after {duration(one.duration_us / 1000)}</span>
              {one.host && <span class="muted"> on {one.host}</span>}
            </span>
          </div>
          {one.backtrace && (
            <details>
              <summary>Backtrace</summary>
              <pre class="code" tabIndex={0}>
                {one.backtrace}
              </pre>
            </details>
          )}
        </li>
      ))}
    </ol>
  );
}

function Emitted({ id, event }: { id: string; event: EventRow | undefined }) {
  if (!event) {
    return (
      <div class="event-line">
        <span class="muted">emitted</span> <code class="id wrap">{id}</code>
      </div>
    );
  }
  return (
    <details>
      <summary>
        emitted <strong>{event.type}</strong>
        {event.due_at_ms ? (
          <span>
            due <Time at={event.due_at_ms} />
          </span>
        ) : null}
      </summary>
      {event.raw !== null && event.raw !== "null" && <JsonText text={event.raw} />}
      <EventLink id={event.id} source={event.source} />
    </details>
  );
}

function Bars({ lane, scale }: { lane: Lane; scale: Scale }) {
  const percent = (time: number) => `${(scale.at(time) * 100).toFixed(3)}%`;
  const width = (from: number, to: number) =>
    `${Math.max(0, (scale.at(to) - scale.at(from)) * 100).toFixed(3)}%`;
  return (
    <svg class="bars" aria-hidden="true">
      {scale.gaps.map((gap) => (
        <g key={gap.from}>
          <rect class="gap-mark" x={percent(gap.from)} width={width(gap.from, gap.to)} height="22" />
          <line class="gap-line" x1={percent(gap.from)} x2={percent(gap.from)} y1="0" y2="22" />
          <line class="gap-line" x1={percent(gap.to)} x2={percent(gap.to)} y1="0" y2="22" />
        </g>
      ))}
      {lane.segments.map((one, place) => {
        const thin = one.kind === "wait" || one.kind === "pending";
        return (
          <g key={place}>
            <rect
              class={`bar-${one.kind}`}
              x={percent(one.from)}
              width={width(one.from, one.to)}
              y={thin ? 8 : 4}
              height={thin ? 6 : 14}
              rx="2"
            />
            {!thin && (
              // What is shorter than a pixel is visible all the same.
              <rect class={`bar-${one.kind}`} x={percent(one.from)} width="3" y="4" height="14" rx="1" />
            )}
          </g>
        );
      })}
    </svg>
  );
}
