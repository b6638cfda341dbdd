// Whether the host can do its work, and which hosts there are.

import { useGet, useReadiness } from "../../api/poll.ts";
import type {
  Encryption,
  Hosts as HostList,
  Liveness,
  Namespace,
  Page,
  StageStatus,
} from "../../api/types.ts";
import { count } from "../../lib/format.ts";
import { can, session } from "../../session.ts";
import { Facts, ProblemNote, Section, Status, Time } from "../../ui/basics.tsx";
import { TableCard } from "../../ui/table.tsx";

interface Health {
  status: string;
  error?: string | null;
}

const HEALTH_MS = 10_000;

export function Overview() {
  const live = useGet<Liveness>("health", HEALTH_MS);
  const readiness = useReadiness(HEALTH_MS);
  const namespaces = useGet<Page<Namespace>>(can("read") ? "namespaces" : null, HEALTH_MS);
  const encryption = useGet<Encryption>(can("admin") ? "encryption" : null, 60_000);
  const store = useGet<Health>("health/db", HEALTH_MS);
  const broker = useGet<Health>("health/queue", HEALTH_MS);
  const ready = readiness.data;
  return (
    <div class="sections">
      <Section title="This host">
        <ProblemNote problem={live.problem} />
        <div class="card padded">
          <Facts
            of={[
              ["Version", live.data?.version ?? "…"],
              [
                "Ready",
                ready ? <Ready value={ready.ready} /> : "…",
              ],
              ["Store", <Service health={store.data} problem={store.problem?.detail} />],
              ["Broker", <Service health={broker.data} problem={broker.problem?.detail} />],
              [
                "Tasks",
                ready &&
                  (ready.failing_tasks.length === 0 ? (
                    <Status value="running" />
                  ) : (
                    ready.failing_tasks.map((one) => (
                      <div class="wrap" key={one.task}>
                        <Status value={one.task} tone="bad" icon="warning" /> {one.reason}
                      </div>
                    ))
                  )),
              ],
              [
                "Encryption",
                encryption.data &&
                  (encryption.data.primary ? (
                    <>
                      on, with key <code>{encryption.data.primary}</code>
                    </>
                  ) : (
                    "off"
                  )),
              ],
              ["You", session.value?.principal],
              ["Your roles", session.value?.roles.join(", ")],
            ]}
          />
        </div>
      </Section>
      <Hosts />
      <Queues />
      {namespaces.data && namespaces.data.items.length > 1 && (
        <Section title="Namespaces of this process">
          <TableCard
            rows={namespaces.data.items}
            keyOf={(one) => one.namespace}
            columns={[
              {
                title: "Namespace",
                cell: (one) => (
                  <a href={`${one.path}/console/`} target="_self">
                    {one.namespace}
                  </a>
                ),
              },
              { title: "Path", cellClass: "id", cell: (one) => one.path },
              { title: "State", cell: (one) => <Ready value={one.ready} /> },
            ]}
          />
        </Section>
      )}
      {encryption.data && encryption.data.keys.length > 0 && (
        <Section title="Encryption keys">
          <TableCard
            rows={encryption.data.keys}
            keyOf={(key) => key.id}
            columns={[
              { title: "Key", cellClass: "id", cell: (key) => key.id },
              {
                title: "State",
                cell: (key) =>
                  key.present ? (
                    <Status
                      value={key.id === encryption.data!.primary ? "primary" : "present"}
                      tone="good"
                      icon="done"
                    />
                  ) : (
                    <Status value="missing" tone="bad" icon="warning" />
                  ),
              },
              { title: "Wraps", class: "right", cellClass: "num", cell: (key) => count(key.wraps) },
            ]}
          />
        </Section>
      )}
    </div>
  );
}

/** Whether a host or a namespace can do its work. */
function Ready({ value }: { value: boolean }) {
  return value ? (
    <Status value="ready" />
  ) : (
    <Status value="not ready" tone="bad" icon="dead" />
  );
}

function Service({ health, problem }: { health: Health | null; problem?: string | undefined }) {
  if (!health) return <>{problem ? <span class="wrap bad-text">{problem}</span> : "…"}</>;
  return (
    <>
      <Status value={health.status} /> {health.error && <span class="wrap">{health.error}</span>}
    </>
  );
}

/** The live hosts of the namespace, and what each runs. */
function Hosts() {
  const hosts = useGet<HostList>(can("read") ? "hosts" : null, HEALTH_MS);
  return (
    <Section title="Hosts" side="live, and what each runs">
      <TableCard
        reading={hosts}
        rows={hosts.data?.items}
        keyOf={(one) => one.host}
        lines={2}
        columns={[
          {
            title: "Host",
            cellClass: "id",
            cell: (one) => (
              <>
                {one.host}
                {one.host === hosts.data?.answered_by && <span class="muted"> (this one)</span>}
              </>
            ),
          },
          {
            title: "Stages",
            cell: (one) =>
              one.stages.map(({ stage, version }) => `${stage} ${version}`).join(", ") || "–",
          },
          { title: "Address", class: "hide-narrow", cellClass: "id", cell: (one) => one.api ?? "–" },
          { title: "Version", cellClass: "num", cell: (one) => one.version ?? "not known" },
          {
            title: "Started",
            class: "right hide-narrow",
            cell: (one) => <Time at={one.started_at_ms} />,
          },
          { title: "Last report", class: "right", cell: (one) => <Time at={one.seen_at_ms} /> },
        ]}
      />
    </Section>
  );
}

/** What waits, and whether a host takes it. */
function Queues() {
  const stages = useGet<Page<StageStatus>>("stages", HEALTH_MS);
  return (
    <Section title="Queues" side="of all hosts">
      <TableCard
        reading={stages}
        rows={stages.data?.items}
        keyOf={(one) => one.stage}
        columns={[
          { title: "Stage", cell: (one) => one.stage },
          {
            title: "State",
            cell: (one) => (
              <Status
                value={one.consumption}
                tone={one.consumption === "consuming" ? "good" : "calm"}
                icon={one.consumption === "consuming" ? "done" : "waiting"}
              />
            ),
          },
          { title: "Waiting", class: "right", cellClass: "num", cell: (one) => count(one.waiting) },
          {
            title: "Due later",
            class: "right",
            cellClass: "num",
            cell: (one) => count(one.scheduled),
          },
          {
            title: "Held",
            class: "right hide-narrow",
            cellClass: "num",
            cell: (one) => count(one.held),
          },
          {
            title: "Handed over",
            class: "right hide-narrow",
            cellClass: "num",
            cell: (one) => count(one.handed_over),
          },
        ]}
      />
    </Section>
  );
}
