// The audit trail: who did what, to what, from where, and why.

import { newestRecords, type NewestRecords } from "../../api/audit.ts";
import { usePoll } from "../../api/poll.ts";
import type { AuditRecord } from "../../api/types.ts";
import { route, setQuery } from "../../lib/router.ts";
import { useSignal } from "@preact/signals";
import { Empty, Facts, ProblemNote, Section, Skeleton, Status, Time } from "../../ui/basics.tsx";
import { JsonText } from "../../ui/json.tsx";
import { FilterText } from "../../ui/list.tsx";

const FIRST = 100;
const READ_MS = 10_000;

export function Audit() {
  const { query } = route.value;
  const wanted = useSignal(FIRST);
  const { actor, action, object } = query;
  const key = JSON.stringify({ actor, action, object, wanted: wanted.value });
  const records = usePoll<NewestRecords>(`audit:${key}`, READ_MS, () =>
    newestRecords({ actor, action, object }, wanted.value),
  );
  const set = actor || action || object;
  return (
    <Section
      title="Audit trail"
      side={
        <>
          <FilterText name="actor" label="Actor" />
          <FilterText name="action" label="Action" />
          <FilterText name="object" label="Object" />
          {set && (
            <button
              type="button"
              class="bare"
              onClick={() => setQuery({ actor: null, action: null, object: null })}
            >
              Clear
            </button>
          )}
        </>
      }
    >
      <ProblemNote problem={records.problem} />
      <div class="card">
        {!records.data && !records.problem && <Skeleton lines={10} />}
        {records.data?.items.length === 0 && (
          <Empty title={set ? "No records match" : "No records yet"}>
            Every write of an operator leaves one.
          </Empty>
        )}
        {records.data?.items.map((one) => <Record key={one.pos} record={one} />)}
      </div>
      {records.data?.older && (
        <div class="list-foot">
          <button type="button" onClick={() => (wanted.value *= 3)}>
            Older
          </button>
        </div>
      )}
    </Section>
  );
}

function Record({ record }: { record: AuditRecord }) {
  return (
    <details class="record">
      <summary>
        <Time at={record.at_ms} />
        <span class="id ellipsis">{record.action}</span>
        <span class="ellipsis" title={record.object}>
          {record.object}
        </span>
        <span class="muted ellipsis" title={record.actor.id}>
          {record.actor.id}
        </span>
        <Status value={record.outcome} />
      </summary>
      <div class="record-body">
        <Facts
          of={[
            ["Reason", record.reason],
            ["Actor", `${record.actor.id} (${record.actor.kind})`],
            ["Address", record.actor.address],
            ["Host", record.host],
            ["Position", String(record.pos)],
            ["Hash", <code class="id wrap">{record.hash}</code>],
          ]}
        />
        {record.before != null && (
          <Section title="Before">
            <JsonText text={JSON.stringify(record.before)} />
          </Section>
        )}
        {record.after != null && (
          <Section title="After">
            <JsonText text={JSON.stringify(record.after)} />
          </Section>
        )}
      </div>
    </details>
  );
}
