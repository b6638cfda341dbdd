// The event log: the newest first, with what arrives, and one event.

import { useSignal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { asProblem } from "../../api/client.ts";
import { useGet } from "../../api/poll.ts";
import type { Page } from "../../api/types.ts";
import { clock, exact } from "../../lib/format.ts";
import { href, navigate, route, setQuery } from "../../lib/router.ts";
import { Empty, ProblemNote, Skeleton } from "../../ui/basics.tsx";
import { say } from "../../ui/dialog.tsx";
import {
  FilterSelect,
  FilterText,
  PERIODS,
  RowLink,
  SearchField,
  sinceOf,
  Split,
} from "../../ui/list.tsx";
import { Table } from "../../ui/table.tsx";
import { TopBar } from "../../ui/topbar.tsx";
import { EventDetail } from "./event.tsx";
import { Log } from "./log.ts";

const FILTERS = ["type", "subject", "stage", "source", "correlation", "period"] as const;

export function Events() {
  const { id, query } = route.value;
  const live = query["live"] !== "off";
  const key = JSON.stringify([...FILTERS.map((name) => query[name]), live]);
  const log = useMemo(() => {
    const { type, subject, stage, source, correlation, period } = query;
    const filter = { type, subject, stage, source, correlation, since: sinceOf(period) };
    return new Log(filter, live);
  }, [key]);
  useEffect(() => () => log.stop(), [log]);
  const search = (text: string) => {
    if (text.includes("/")) setQuery({ subject: text });
    else if (/[.*#]/.test(text)) setQuery({ type: text });
    else if (text) navigate(href("events", text, query));
  };
  return (
    <>
      <TopBar title="Events">
        <SearchField label="Type, order/7, or event id" onSearch={search} />
        <div class="side">
          <LiveSwitch log={log} live={live} />
        </div>
      </TopBar>
      <Filters />
      <Split
        list={<Rows log={log} />}
        detail={id ? <EventDetail key={id + query["from"]} id={id} source={query["from"]} /> : null}
      />
    </>
  );
}

function LiveSwitch({ log, live }: { log: Log; live: boolean }) {
  const { stream } = log.state.value;
  const words = !live ? "Paused" : stream === "live" ? "Live" : "Connecting…";
  return (
    <button
      type="button"
      aria-pressed={live}
      class="live"
      onClick={() => setQuery({ live: live ? "off" : null })}
    >
      <span class={`pulse ${live && stream === "live" ? "" : "off"}`} />
      {words}
    </button>
  );
}

function Filters() {
  const stages = useGet<Page<{ stage: string }>>("stages", 0);
  const names = stages.data?.items.map((one): [string, string] => [one.stage, `by ${one.stage}`]);
  const set = FILTERS.some((name) => route.value.query[name]);
  return (
    <div class="filters" role="group" aria-label="Filters">
      <FilterText name="type" label="Type, payment.*" wide />
      <FilterText name="subject" label="Subject, order/7" />
      <FilterSelect name="stage" label="Emitted by" all="Any stage" options={names ?? []} />
      <FilterText name="source" label="Source" />
      <FilterText name="correlation" label="Chain" />
      <FilterSelect name="period" label="Logged" all="Any time" options={PERIODS} />
      {set && (
        <button
          type="button"
          class="bare"
          onClick={() => setQuery(Object.fromEntries(FILTERS.map((name) => [name, null])))}
        >
          Clear
        </button>
      )}
    </div>
  );
}

function Rows({ log }: { log: Log }) {
  const { rows, older, problem, dropped } = log.state.value;
  const reading = useSignal(false);
  const { id, query } = route.value;
  if (!rows) return problem ? <ProblemNote problem={problem} /> : <Skeleton lines={16} />;
  const more = async () => {
    reading.value = true;
    try {
      await log.loadOlder();
    } catch (error) {
      say(asProblem(error).detail, true);
    }
    reading.value = false;
  };
  return (
    <>
      {rows.length === 0 ? (
        <Empty title={FILTERS.some((name) => query[name]) ? "No events match" : "No events yet"}>
          New ones appear here as they are logged.
        </Empty>
      ) : (
        <Table
          class="rows events-table"
          rows={rows}
          keyOf={(one) => one.seq}
          columns={[
            {
              title: "Position",
              class: "right hide-narrow",
              cellClass: "num muted",
              cell: (one) => one.seq,
            },
            {
              title: "Logged",
              class: "shrink",
              cellClass: "num",
              hint: (one) => exact(one.logged_at_ms),
              cell: (one) => clock(one.logged_at_ms),
            },
            {
              title: "Type",
              class: "truncate",
              cell: (one) => (
                <>
                  <RowLink
                    to={href("events", one.id, { ...query, from: one.source })}
                    current={id === one.id && (!query["from"] || query["from"] === one.source)}
                    title={one.type}
                  >
                    {one.type}
                  </RowLink>
                  <span class="event-lines ellipsis">{one.subject_key ?? one.subject}</span>
                </>
              ),
            },
            {
              title: "Subject",
              class: "hide-narrow",
              cellClass: "id ellipsis customer",
              hint: (one) => one.subject_key ?? one.subject,
              cell: (one) => one.subject_key ?? one.subject,
            },
            {
              title: "Emitted by",
              class: "hide-narrow hide-split",
              cellClass: "nowrap",
              cell: (one) => one.stage ?? <span class="muted">outside</span>,
            },
            {
              title: "To",
              class: "hide-narrow hide-split",
              cellClass: "nowrap",
              cell: (one) => one.routed_to.join(", ") || <span class="faint">no stage</span>,
            },
          ]}
        />
      )}
      <div class="list-foot">
        <ProblemNote problem={problem} />
        {rows.length > 0 && <span class="num">{rows.length.toLocaleString("en-US")} events</span>}
        {dropped && <span>Older rows were dropped while new ones arrived.</span>}
        {older && (
          <button type="button" onClick={() => void more()}>
            {reading.value ? "Reading…" : "Older"}
          </button>
        )}
      </div>
    </>
  );
}
