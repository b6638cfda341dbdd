// Dead letters: groups by cause, the letters of a group, one letter, and jobs on many of them.

import { useSignal } from "@preact/signals";
import { useGet } from "../../api/poll.ts";
import type { DeadLetterGroup, DeadLetterSummary, Page } from "../../api/types.ts";
import { count } from "../../lib/format.ts";
import { href, navigate, route, setQuery } from "../../lib/router.ts";
import { missing } from "../../session.ts";
import { Action, Empty, ProblemNote, Skeleton, Status, Time } from "../../ui/basics.tsx";
import { FilterSelect, FilterText, RowLink, SearchField, Split } from "../../ui/list.tsx";
import { ListEnd, usePaged } from "../../ui/paged.tsx";
import { Table } from "../../ui/table.tsx";
import { TopBar } from "../../ui/topbar.tsx";
import { Bulk, type Verb } from "./bulk.tsx";
import { filterOf, queryOf, readsAll } from "./filter.ts";
import { Jobs } from "./jobs.tsx";
import { Letter } from "./letter.tsx";

const LIST_MS = 5_000;

export function DeadLetters() {
  const { id, query } = route.value;
  const bulk = useSignal<Verb | null>(null);
  const showsLetters = Boolean(query["group"]) || query["view"] === "letters";
  const filter = filterOf(query);
  const off = missing("operate", query["stage"]);
  const settled = Boolean(query["status"]) && query["status"] !== "open";
  const open = (text: string) => {
    if (/^\d+$/.test(text)) navigate(href("dead-letters", text, query));
    else if (text) setQuery({ subject: text.includes("/") ? text : `order/${text}`, view: "letters" });
  };
  const list = (
    <>
      {query["group"] ? (
        <GroupCrumb group={query["group"]} />
      ) : (
        <div class="crumbs">
          <Views letters={showsLetters} />
        </div>
      )}
      {showsLetters ? <Letters /> : <Groups />}
    </>
  );
  return (
    <>
      <TopBar title="Dead letters">
        <SearchField label="Letter number or order id" onSearch={open} />
        <div class="side">
          {!settled && (
            <>
              <Action
                label={readsAll(filter) ? "Replay all" : "Replay matching"}
                icon="replay"
                off={off}
                onClick={() => (bulk.value = "replay")}
              />
              <Action
                label="Discard"
                kind="danger"
                off={off}
                onClick={() => (bulk.value = "discard")}
              />
            </>
          )}
        </div>
      </TopBar>
      <Filters />
      <Split list={list} detail={id ? <Letter key={id} id={id} /> : null} side={<Jobs />} />
      {bulk.value && (
        <Bulk verb={bulk.value} filter={filter} onClose={() => (bulk.value = null)} />
      )}
    </>
  );
}

function Views({ letters }: { letters: boolean }) {
  const { query } = route.value;
  const to = (view: string | null) => href("dead-letters", null, { ...query, view, group: null });
  return (
    <div class="tabs">
      <a href={to(null)} aria-current={letters ? undefined : "page"}>
        By cause
      </a>
      <a href={to("letters")} aria-current={letters ? "page" : undefined}>
        Letters
      </a>
    </div>
  );
}

function Filters() {
  const stages = useGet<Page<{ stage: string }>>("stages", 0);
  const names = stages.data?.items.map((one): [string, string] => [one.stage, one.stage]) ?? [];
  const { query } = route.value;
  const set = ["stage", "code", "status", "subject"].some((name) => query[name]);
  return (
    <div class="filters" role="group" aria-label="Filters">
      <FilterSelect name="stage" label="Stage" all="Any stage" options={names} />
      <FilterText name="code" label="Code" />
      <FilterSelect
        name="status"
        label="Status"
        all="Open"
        options={[
          ["replayed", "Replayed"],
          ["discarded", "Discarded"],
          ["any", "Any status"],
        ]}
      />
      <FilterText name="subject" label="Subject, order/7" />
      {set && (
        <button
          type="button"
          class="bare"
          onClick={() => setQuery({ stage: null, code: null, status: null, subject: null })}
        >
          Clear
        </button>
      )}
    </div>
  );
}

function GroupCrumb({ group }: { group: string }) {
  const { query } = route.value;
  const found = useGet<Page<DeadLetterGroup>>("dead-letters/groups", LIST_MS, { group, limit: 1 });
  const one = found.data?.items[0];
  return (
    <div class="crumbs">
      <a class="button bare" href={href("dead-letters", null, { ...query, group: null })}>
        All causes
      </a>
      {one && (
        <div class="two-lines">
          <div>
            <strong>{one.stage}</strong> <code class="bad-text">{one.code}</code>{" "}
            <span class="muted num">
              {count(one.open)} open, {count(one.replayed)} replayed, {count(one.discarded)} discarded
            </span>
          </div>
          <div class="fingerprint" title={one.fingerprint}>
            {one.fingerprint}
          </div>
        </div>
      )}
    </div>
  );
}

function Groups() {
  const { query } = route.value;
  const groups = useGet<Page<DeadLetterGroup>>("dead-letters/groups", LIST_MS, {
    ...queryOf(query),
    limit: 200,
  });
  if (!groups.data) {
    return groups.problem ? <ProblemNote problem={groups.problem} /> : <Skeleton lines={6} />;
  }
  const list = [...groups.data.items].sort(
    (a, b) => b.open - a.open || b.last_at_ms - a.last_at_ms,
  );
  if (list.length === 0) return <Nothing />;
  return (
    <Table
      class="rows"
      rows={list}
      keyOf={(group) => group.id}
      columns={[
        {
          title: "Cause",
          class: "truncate",
          cell: (group) => (
            <div class="two-lines">
              <div>
                <RowLink
                  to={href("dead-letters", null, { ...query, group: group.id })}
                  current={false}
                >
                  {group.stage} <code class="group-code bad-text">{group.code}</code>
                </RowLink>
              </div>
              <div class="fingerprint" title={group.fingerprint}>
                {group.fingerprint}
              </div>
            </div>
          ),
        },
        {
          title: "Open",
          class: "right",
          cellClass: "num",
          cell: ({ open }) => <span class={open > 0 ? "bad-text" : ""}>{count(open)}</span>,
        },
        {
          title: "Replayed",
          class: "right hide-narrow",
          cellClass: "num",
          cell: (group) => count(group.replayed),
        },
        {
          title: "Discarded",
          class: "right hide-narrow",
          cellClass: "num",
          cell: (group) => count(group.discarded),
        },
        { title: "Last", class: "right shrink", cell: (group) => <Time at={group.last_at_ms} /> },
      ]}
    />
  );
}

function Nothing() {
  const { query } = route.value;
  const filtered = ["stage", "code", "status", "subject", "group"].some((name) => query[name]);
  return filtered ? (
    <Empty title="No dead letters match">Change the filters above.</Empty>
  ) : (
    <Empty title="No dead letters">
      Nothing waits for you. What fails for good in a stage appears here, with its cause.
    </Empty>
  );
}

function Letters() {
  const { id, query } = route.value;
  const list = usePaged<DeadLetterSummary>(
    "dead-letters",
    { ...queryOf(query), limit: 100 },
    LIST_MS,
    (one) => String(one.id),
  );
  if (!list.items) {
    return list.problem ? <ListEnd of={list} noun="letters" /> : <Skeleton lines={12} />;
  }
  if (list.items.length === 0) return <Nothing />;
  return (
    <>
      <Table
        class="rows"
        rows={list.items}
        keyOf={(one) => one.id}
        columns={[
          {
            title: "Letter",
            class: "shrink",
            cellClass: "num",
            cell: (one) => (
              <RowLink
                to={href("dead-letters", String(one.id), query)}
                current={id === String(one.id)}
              >
                {one.id}
              </RowLink>
            ),
          },
          {
            title: "Failure",
            class: "truncate",
            cell: (one) => (
              <div class="two-lines">
                <div>
                  {one.stage} <code class="bad-text">{one.code}</code>
                </div>
                <div class="muted" title={one.message}>
                  {one.message}
                </div>
              </div>
            ),
          },
          {
            title: "Subject",
            class: "hide-narrow hide-split",
            cellClass: "id ellipsis customer",
            hint: (one) => one.subject_key,
            cell: (one) => one.subject_key ?? "–",
          },
          { title: "Status", class: "shrink", cell: (one) => <Status value={one.status} /> },
          {
            title: "Dead since",
            class: "right shrink",
            cell: (one) => <Time at={one.dead_lettered_at_ms} />,
          },
        ]}
      />
      <ListEnd of={list} noun="letters" />
    </>
  );
}
