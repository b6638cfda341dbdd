// How much of each limit is used, and by whom.

import { useGet } from "../../api/poll.ts";
import type { Limits } from "../../api/types.ts";
import { bytes, count } from "../../lib/format.ts";
import { Empty, ProblemNote, Section, Skeleton } from "../../ui/basics.tsx";
import { TableCard } from "../../ui/table.tsx";

export function LimitsTab() {
  const limits = useGet<Limits>("limits", 5_000);
  const data = limits.data;
  if (!data) return limits.problem ? <ProblemNote problem={limits.problem} /> : <Skeleton />;
  const sorted = [...data.limits].sort((a, b) => b.used / b.max - a.used / a.max);
  const amount = (value: number, unit: string) => (unit === "bytes" ? bytes(value) : count(value));
  const clients = [...data.principals, ...(data.addresses ?? [])];
  return (
    <div class="sections">
      <ProblemNote problem={limits.problem} />
      <Section title="Limits" side="of this host, the fullest first">
        <TableCard
          rows={sorted}
          keyOf={(one) => `${one.limit} ${one.stage} ${one.unit}`}
          columns={[
            {
              title: "Limit",
              cell: (one) => (
                <>
                  {one.limit}
                  {one.stage && <span class="muted"> of {one.stage}</span>}
                </>
              ),
            },
            {
              title: "Used",
              class: "right",
              cellClass: "num nowrap",
              cell: (one) => amount(one.used, one.unit),
            },
            {
              title: "Of",
              class: "right",
              cellClass: "num nowrap",
              cell: (one) => amount(one.max, one.unit),
            },
            {
              title: "Share",
              class: "hide-narrow",
              cellClass: "nowrap",
              cell: (one) => <Share used={one.used} max={one.max} />,
            },
            {
              title: "Setting",
              class: "hide-narrow",
              cellClass: "id",
              cell: (one) => one.setting ?? "fixed",
            },
          ]}
        />
      </Section>
      <Section title="Clients" side="of the last minute">
        <TableCard
          rows={clients}
          keyOf={(one) => one.client}
          empty={<Empty title="No clients">No request came within the last minute.</Empty>}
          columns={[
            { title: "Client", cellClass: "id", cell: (one) => one.client },
            {
              title: "Requests",
              class: "right",
              cellClass: "num",
              cell: (one) => count(one.requests_last_minute),
            },
            {
              title: "Open",
              class: "right",
              cellClass: "num",
              cell: (one) => count(one.requests_in_progress),
            },
            {
              title: "Bytes",
              class: "right",
              cellClass: "num nowrap",
              cell: (one) => bytes(one.bytes_in_progress),
            },
            {
              title: "Refused",
              class: "right",
              cellClass: "num",
              cell: (one) => <span class={one.refused > 0 ? "bad-text" : ""}>{count(one.refused)}</span>,
            },
          ]}
        />
      </Section>
    </div>
  );
}

/** How full a limit is, as a bar and a number. */
function Share({ used, max }: { used: number; max: number }) {
  const share = max === 0 ? 0 : used / max;
  return (
    <>
      <span class="gauge progress">
        <div style={{ width: `${Math.min(100, share * 100)}%` }} />
      </span>{" "}
      <span class={`num ${share > 0.8 ? "bad-text" : "muted"}`}>{Math.round(share * 100)} %</span>
    </>
  );
}
