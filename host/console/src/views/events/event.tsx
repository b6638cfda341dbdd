// One event with its payload, its cause and its chain.

import { path, send } from "../../api/client.ts";
import { eventOf, type EventRow } from "../../api/events.ts";
import { usePoll } from "../../api/poll.ts";
import { splitKey } from "../../lib/format.ts";
import { href } from "../../lib/router.ts";
import { Copy, Digest, Facts, ProblemNote, Section, Skeleton, Time } from "../../ui/basics.tsx";
import { Payload } from "../../ui/json.tsx";
import { DetailHead } from "../../ui/list.tsx";
import { tracesOf } from "../../ui/trace.tsx";
import { EventLink } from "../orders/lanes.tsx";

export function EventDetail({ id, source }: { id: string; source: string | undefined }) {
  const known = usePoll<EventRow>(`event:${source ?? ""}:${id}`, 0, async () => {
    const { text } = await send(path`events/${id}`, { query: { source } });
    return eventOf(text);
  });
  const event = known.data;
  return (
    <>
      <DetailHead view="events" title={event?.type ?? id} label="Event">
        {event && (
          <a class="button" href={href("events", null, { correlation: event.correlation_id })}>
            Its chain
          </a>
        )}
      </DetailHead>
      <div class="detail-body">
        <ProblemNote problem={known.problem} />
        {!event && !known.problem && <Skeleton lines={9} />}
        {event && <Body event={event} />}
      </div>
    </>
  );
}

function Body({ event }: { event: EventRow }) {
  const subject = event.subject_key ? splitKey(event.subject_key) : null;
  const kind = subject && subject.kind !== "order" ? subject.kind : null;
  return (
    <>
      <Section title="Data">
        <Payload raw={event.raw} unreadable={event.unreadable} />
      </Section>
      <Section title="Event">
        <Facts
          of={[
            [
              "Subject",
              subject ? (
                <a href={href("orders", subject.id, { kind })}>{event.subject_key}</a>
              ) : (
                event.subject
              ),
            ],
            ["Emitted by", event.stage && <a href={href("pipeline", event.stage)}>{event.stage}</a>],
            ["Plugin", event.digest && <Digest value={event.digest} />],
            [
              "Routed to",
              event.routed_to.length > 0 ? (
                <span class="chips">
                  {event.routed_to.map((stage) => (
                    <a class="chip" key={stage} href={href("pipeline", stage)}>
                      {stage}
                    </a>
                  ))}
                </span>
              ) : (
                <span class="muted">no stage</span>
              ),
            ],
            ["Cause", event.cause && <EventLink {...event.cause} />],
            ["Happened", <Time at={event.time_ms} />],
            ["Logged", <Time at={event.logged_at_ms} />],
            ["Due", event.due_at_ms ? <Time at={event.due_at_ms} /> : null],
            ["Position", <span class="num">{event.seq}</span>],
            ["Id", <Copy text={event.id} />],
            ["Source", <span class="id wrap">{event.source}</span>],
            [
              "Chain",
              <a class="id wrap" href={href("events", null, { correlation: event.correlation_id })}>
                {event.correlation_id}
              </a>,
            ],
            ["Trace", tracesOf([event.attributes["traceparent"]])],
            ["Content type", event.content_type],
            ...Object.entries(event.attributes).map(
              ([name, value]): [string, preact.ComponentChildren] => [name, <Copy text={value} />],
            ),
          ]}
        />
      </Section>
    </>
  );
}
