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
import { Facts, ProblemNote, Section, Skeleton, Status, Time } from "../../ui/basics.tsx";

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
                ready ? (
                  <Status value={ready.ready ? "ready" : "not ready"} tone={ready.ready ? "good" : "bad"} icon={ready.ready ? "done" : "dead"} />
                ) : (
                  "…"
                ),
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
          <div class="card table-wrap" tabIndex={0}>
            <table>
              <thead>
                <tr>
                  <th>Namespace</th>
                  <th>Path</th>
                  <th>State</th>
                </tr>
              </thead>
              <tbody>
                {namespaces.data.items.map((one) => (
                  <tr key={one.namespace}>
                    <td>
                      <a href={`${one.path}/console/`} target="_self">
                        {one.namespace}
                      </a>
                    </td>
                    <td class="id">{one.path}</td>
                    <td>
                      <Status value={one.ready ? "ready" : "not ready"} tone={one.ready ? "good" : "bad"} icon={one.ready ? "done" : "dead"} />
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        </Section>
      )}
      {encryption.data && encryption.data.keys.length > 0 && (
        <Section title="Encryption keys">
          <div class="card table-wrap" tabIndex={0}>
            <table>
              <thead>
                <tr>
                  <th>Key</th>
                  <th>State</th>
                  <th class="right">Wraps</th>
                </tr>
              </thead>
              <tbody>
                {encryption.data.keys.map((key) => (
                  <tr key={key.id}>
                    <td class="id">{key.id}</td>
                    <td>
                      {key.present ? (
                        <Status value={key.id === encryption.data!.primary ? "primary" : "present"} tone="good" icon="done" />
                      ) : (
                        <Status value="missing" tone="bad" icon="warning" />
                      )}
                    </td>
                    <td class="num right">{count(key.wraps)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        </Section>
      )}
    </div>
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
      <ProblemNote problem={hosts.problem} />
      <div class="card table-wrap" tabIndex={0}>
        {!hosts.data ? (
          <Skeleton lines={2} />
        ) : (
          <table>
            <thead>
              <tr>
                <th>Host</th>
                <th>Stages</th>
                <th class="hide-narrow">Address</th>
                <th>Version</th>
                <th class="right hide-narrow">Started</th>
                <th class="right">Last report</th>
              </tr>
            </thead>
            <tbody>
              {hosts.data.items.map((one) => (
                <tr key={one.host}>
                  <td class="id">
                    {one.host}
                    {one.host === hosts.data!.answered_by && <span class="muted"> (this one)</span>}
                  </td>
                  <td>{one.stages.map(({ stage, version }) => `${stage} ${version}`).join(", ") || "–"}</td>
                  <td class="id hide-narrow">{one.api ?? "–"}</td>
                  <td class="num">{one.version ?? "not known"}</td>
                  <td class="right hide-narrow">
                    <Time at={one.started_at_ms} />
                  </td>
                  <td class="right">
                    <Time at={one.seen_at_ms} />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        )}
      </div>
    </Section>
  );
}

/** What waits, and whether a host takes it. */
function Queues() {
  const stages = useGet<Page<StageStatus>>("stages", HEALTH_MS);
  return (
    <Section title="Queues" side="of all hosts">
      <div class="card table-wrap" tabIndex={0}>
        {!stages.data ? (
          <Skeleton lines={3} />
        ) : (
          <table>
            <thead>
              <tr>
                <th>Stage</th>
                <th>State</th>
                <th class="right">Waiting</th>
                <th class="right">Due later</th>
                <th class="right hide-narrow">Held</th>
                <th class="right hide-narrow">Handed over</th>
              </tr>
            </thead>
            <tbody>
              {stages.data.items.map((one) => (
                <tr key={one.stage}>
                  <td>{one.stage}</td>
                  <td>
                    <Status
                      value={one.consumption}
                      tone={one.consumption === "consuming" ? "good" : "calm"}
                      icon={one.consumption === "consuming" ? "done" : "waiting"}
                    />
                  </td>
                  <td class="num right">{count(one.waiting)}</td>
                  <td class="num right">{count(one.scheduled)}</td>
                  <td class="num right hide-narrow">{count(one.held)}</td>
                  <td class="num right hide-narrow">{count(one.handed_over)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        )}
      </div>
    </Section>
  );
}
