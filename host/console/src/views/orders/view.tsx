// Orders, or whatever kinds of subjects the host declares: a list with filters, and one of them.

import { useMemo } from "preact/hooks";
import { useGet } from "../../api/poll.ts";
import type { Page, StageStatus, SubjectKind, SubjectSummary } from "../../api/types.ts";
import { capital, duration } from "../../lib/format.ts";
import { href, navigate, route, setQuery } from "../../lib/router.ts";
import { Empty, ProblemNote, Skeleton, Status, Time } from "../../ui/basics.tsx";
import {
  FilterSelect,
  FilterText,
  PERIODS,
  RowLink,
  SearchField,
  sinceOf,
  Split,
} from "../../ui/list.tsx";
import { ListEnd, usePaged, type Paged } from "../../ui/paged.tsx";
import { Table } from "../../ui/table.tsx";
import { TopBar } from "../../ui/topbar.tsx";
import { Order } from "./order.tsx";

/** How often the newest are read again, milliseconds. */
const LIST_MS = 5_000;

export function Orders() {
  const kinds = useGet<Page<SubjectKind>>("subjects", 0);
  const all = kinds.data?.items;
  const wanted = route.value.query["kind"];
  const kind = all?.find((one) => one.name === wanted) ?? all?.[0];
  if (kinds.problem && !all) {
    return (
      <>
        <TopBar title="Orders" />
        <div class="page">
          <ProblemNote problem={kinds.problem} />
        </div>
      </>
    );
  }
  if (!all) {
    return (
      <>
        <TopBar title="Orders" />
        <Skeleton lines={12} />
      </>
    );
  }
  if (!kind) {
    return (
      <>
        <TopBar title="Subjects" />
        <Empty title="No kinds of subjects">
          The configuration declares none: events are in the <a href={href("events")}>event log</a>.
        </Empty>
      </>
    );
  }
  return <OfKind kind={kind} kinds={all} key={kind.name} />;
}

function OfKind({ kind, kinds }: { kind: SubjectKind; kinds: SubjectKind[] }) {
  const { id, query } = route.value;
  const idOf = (one: SubjectSummary) => String(one[kind.id_field] ?? one["id"] ?? "");
  const at = kind.path.replace(/^\//, "");
  // The start of the period stays while the filter is set.
  const since = useMemo(() => sinceOf(query["period"]), [query["period"]]);
  const list = usePaged<SubjectSummary>(
    at,
    {
      status: query["status"],
      customer: query["customer"],
      stage: query["stage"],
      since,
      limit: 100,
    },
    LIST_MS,
    idOf,
  );
  const search = (text: string) => {
    if (text) navigate(href("orders", text, query));
  };
  return (
    <>
      <TopBar title={capital(kind.plural)}>
        {kinds.length > 1 && (
          <div class="tabs">
            {kinds.map((one) => (
              <a
                key={one.name}
                href={href("orders", null, { kind: one.name })}
                aria-current={one === kind ? "page" : undefined}
              >
                {capital(one.plural)}
              </a>
            ))}
          </div>
        )}
        <SearchField label={`Open ${kind.name} by id`} onSearch={search} value={id ?? ""} />
      </TopBar>
      <Filters list={list} kind={kind} />
      <Split
        list={<List list={list} kind={kind} idOf={idOf} />}
        detail={id ? <Order key={id} id={id} kind={kind} /> : null}
      />
    </>
  );
}

function Filters({ list, kind }: { list: Paged<SubjectSummary>; kind: SubjectKind }) {
  const stages = useGet<Page<StageStatus>>("stages", 0);
  const names = stages.data?.items.map((one): [string, string] => [one.stage, `stuck at ${one.stage}`]);
  const statuses = [...new Set((list.items ?? []).map((one) => one.status))].sort();
  const { query } = route.value;
  const set = ["status", "customer", "stage", "period"].some((name) => query[name]);
  return (
    <div class="filters" role="group" aria-label="Filters">
      <FilterText name="status" label="Status" options={statuses} />
      {kind.customer_field && <FilterText name="customer" label="Customer" />}
      <FilterSelect name="stage" label="Stage" all="Any stage" options={names ?? []} />
      <FilterSelect name="period" label="Created" all="Any time" options={PERIODS} />
      {set && (
        <button
          type="button"
          class="bare"
          onClick={() => setQuery({ status: null, customer: null, stage: null, period: null })}
        >
          Clear
        </button>
      )}
    </div>
  );
}

function List(props: {
  list: Paged<SubjectSummary>;
  kind: SubjectKind;
  idOf: (one: SubjectSummary) => string;
}) {
  const { list, kind, idOf } = props;
  const { id, query } = route.value;
  if (!list.items) {
    return list.problem ? <ListEnd of={list} noun={kind.plural} /> : <Skeleton lines={14} />;
  }
  if (list.items.length === 0) {
    const filtered = ["status", "customer", "stage", "period"].some((name) => query[name]);
    return filtered ? (
      <Empty title={`No ${kind.plural} match`}>Change the filters above.</Empty>
    ) : (
      <Empty title={`No ${kind.plural} yet`}>
        Submit one with <code>POST {kind.path}</code>; it appears here by itself.
      </Empty>
    );
  }
  return (
    <>
      <Table
        class="rows"
        rows={list.items}
        keyOf={idOf}
        columns={[
          {
            title: capital(kind.name),
            class: "truncate",
            cell: (one) => {
              const own = idOf(one);
              return (
                <RowLink to={href("orders", own, query)} current={id === own} title={own}>
                  <span class="id">{own}</span>
                </RowLink>
              );
            },
          },
          { title: "Status", class: "shrink", cell: (one) => <Status value={one.status} /> },
          kind.customer_field
            ? {
                title: "Customer",
                cellClass: "id ellipsis customer",
                hint: (one) => one.customer,
                cell: (one) => one.customer ?? "–",
              }
            : null,
          ...kind.display.map((field) => ({
            title: field,
            class: "hide-narrow hide-split",
            cellClass: "ellipsis customer",
            cell: (one: SubjectSummary) => textOf(one.display?.[field]),
          })),
          { title: "Created", class: "right shrink", cell: (one) => <Time at={one.created_at_ms} /> },
          {
            title: "Took",
            class: "right shrink hide-narrow hide-split",
            cellClass: "num",
            cell: (one) => duration(one.updated_at_ms - one.created_at_ms),
          },
          {
            title: "Changed",
            class: "right shrink hide-narrow",
            cell: (one) => <Time at={one.updated_at_ms} />,
          },
        ]}
      />
      <ListEnd of={list} noun={kind.plural} />
    </>
  );
}

function textOf(value: unknown): string {
  if (value === undefined || value === null) return "–";
  return typeof value === "string" ? value : JSON.stringify(value);
}
