// One plugin: why it serves or does not, its history, roll back, and what its versions decided.

import { ApiError, get, path, post } from "../../api/client.ts";
import { newestRecords } from "../../api/audit.ts";
import { refresh, useGet, usePoll } from "../../api/poll.ts";
import type { AuditRecord, Page, PluginLoad, PluginRolledBack, PluginStatus, Recorded } from "../../api/types.ts";
import { count, plural, shortDigest } from "../../lib/format.ts";
import { href } from "../../lib/router.ts";
import { can, missing } from "../../session.ts";
import { Action, Digest, Empty, Facts, Section, Status, Time } from "../../ui/basics.tsx";
import { ask, say } from "../../ui/dialog.tsx";
import { Icon } from "../../ui/icons.tsx";
import { DetailHead } from "../../ui/list.tsx";
import { TableCard } from "../../ui/table.tsx";
import { Types } from "../pipeline/stage.tsx";
import { Compare } from "./compare.tsx";
import { decisionsOf, type Decisions } from "./decisions.ts";

export function Plugin({ plugin }: { plugin: PluginStatus }) {
  const { stage } = plugin;
  const title = stage ?? plugin.file ?? "?";
  return (
    <>
      <DetailHead view="plugins" title={title} label="Plugin">
        {stage && (
          <a class="button" href={href("pipeline", stage)}>
            Stage
          </a>
        )}
      </DetailHead>
      <div class="detail-body">
        <Trouble plugin={plugin} />
        <Facts
          of={[
            ["State", <Status value={plugin.state} />],
            ["Version", plugin.version],
            ["Digest", plugin.digest && <Digest value={plugin.digest} />],
            ["File", plugin.file],
            ["Loaded", plugin.loaded_at_ms ? <Time at={plugin.loaded_at_ms} /> : null],
            ["Compiling", plugin.compiling_since_ms ? <Time at={plugin.compiling_since_ms} /> : null],
            ["Consumes", stage ? <Types of={plugin.consumes} /> : null],
            ["Emits", stage ? <Types of={plugin.emits} /> : null],
          ]}
        />
        <OnHosts plugin={plugin} />
        {stage && <History stage={stage} serving={plugin.digest} />}
        {can("admin") && <Actions plugin={plugin} />}
        {stage && <Recordings stage={stage} />}
        {stage && <Compare stage={stage} />}
      </div>
    </>
  );
}

function Trouble({ plugin }: { plugin: PluginStatus }) {
  const notes: [string, string, string][] = [];
  if (plugin.last_error) notes.push(["bad", "The newest content of the file was refused", plugin.last_error]);
  if (plugin.rolled_back) notes.push(["warn", "The rollout guard restored this version", plugin.rolled_back]);
  if (plugin.waiting_for) notes.push(["", "It waits for", plugin.waiting_for]);
  for (const warning of plugin.warnings) notes.push(["warn", "Doubtful", warning]);
  if (notes.length === 0) return null;
  return (
    <div class="notes">
      {notes.map(([level, title, text]) => (
        <div class={`note ${level}`} key={title + text}>
          <Icon name={level === "" ? "info" : "warning"} />
          <div>
            <strong>{title}</strong>
            <div class="wrap">{text}</div>
          </div>
        </div>
      ))}
    </div>
  );
}

/** What each host has: versions may differ, and a file may be refused on one host only. */
function OnHosts({ plugin }: { plugin: PluginStatus }) {
  return (
    <Section title="On hosts">
      <TableCard
        rows={plugin.hosts}
        keyOf={(one) => one.host}
        columns={[
          {
            title: "Host",
            cellClass: "id",
            cell: (one) => (
              <>
                {one.host}
                {one.last_error && <div class="bad-text small wrap">{one.last_error}</div>}
              </>
            ),
          },
          { title: "State", class: "shrink", cell: (one) => <Status value={one.state} /> },
          { title: "Version", cellClass: "num", cell: (one) => one.version ?? "–" },
          { title: "Loaded", class: "right", cell: (one) => <Time at={one.loaded_at_ms} /> },
        ]}
      />
    </Section>
  );
}

function History(props: { stage: string; serving: string | null | undefined }) {
  const { stage, serving } = props;
  const history = useGet<Page<PluginLoad>>(path`plugins/${stage}/history`, 10_000);
  const loads = [...(history.data?.items ?? [])].sort((a, b) => b.loaded_at_ms - a.loaded_at_ms);
  const off = missing("operate", stage);
  const rollBack = (digest: string, version: string) =>
    ask({
      title: `Roll ${stage} back to ${version}?`,
      text: (
        <>
          Every host that serves the stage from a file restores the archived file{" "}
          <code>{shortDigest(digest)}</code> in its plugins folder and loads it. Messages that run
          are finished by the present version.
        </>
      ),
      action: "Roll back",
      kind: "danger",
      reason: "optional",
      run: async (reason) => {
        const body = { digest, ...(reason ? { reason } : {}) };
        const done = await post<PluginRolledBack>(path`plugins/${stage}/rollback`, body);
        const failed = done.hosts.filter((one) => one.error);
        say(
          failed.length === 0
            ? `${stage} was rolled back to ${version} on ${plural(done.hosts.length, "host")}`
            : failed.map((one) => `${one.host} was not rolled back: ${one.error}`).join("; "),
        );
        refresh("plugins", "stages", "topology");
      },
    });
  return (
    <Section title="Load history" side="all hosts">
      <TableCard
        reading={history}
        rows={history.data && loads}
        keyOf={(load) => `${load.host} ${load.loaded_at_ms} ${load.digest}`}
        empty={<Empty title="Never loaded">A native stage has no file.</Empty>}
        columns={[
          {
            title: "Version",
            cellClass: "num",
            cell: (load) => (
              <>
                {load.version} <div class="id muted only-narrow">{shortDigest(load.digest)}</div>
              </>
            ),
          },
          { title: "Digest", class: "hide-narrow", cell: (load) => <Digest value={load.digest} /> },
          {
            title: "Host",
            class: "truncate",
            hint: (load) => load.host,
            cell: (load) => load.host,
          },
          { title: "Loaded", class: "right", cell: (load) => <Time at={load.loaded_at_ms} /> },
          {
            title: "Actions",
            hidden: true,
            class: "right shrink",
            cell: (load) => {
              // Once for each content, beside its newest load.
              if (loads.find((one) => one.digest === load.digest) !== load) return null;
              if (load.digest === serving) return <span class="muted small">serves</span>;
              const change = () => rollBack(load.digest, load.version);
              return <Action label="Roll back" off={off} onClick={change} />;
            },
          },
        ]}
      />
    </Section>
  );
}

/** Refusals and roll-backs, from the audit log. */
function Actions({ plugin }: { plugin: PluginStatus }) {
  const { stage, file } = plugin;
  const records = usePoll<AuditRecord[]>(`plugin-audit:${stage}:${file}`, 15_000, async () => {
    const reads = [];
    if (file) reads.push(newestRecords({ action: "plugin.refuse", object: `plugin/${file}` }, 20));
    if (stage) reads.push(newestRecords({ action: "plugin.roll-back", object: `stage/${stage}` }, 20));
    const found = (await Promise.all(reads)).flatMap((one) => one.items);
    return found.sort((a, b) => b.at_ms - a.at_ms);
  });
  if (!records.data || records.data.length === 0) return null;
  return (
    <Section title="Refusals and roll-backs" side="newest first">
      <ul class="notes">
        {records.data.map((one) => (
          <li class="note" key={one.pos}>
            <Icon name={one.action === "plugin.refuse" ? "warning" : "replaced"} />
            <div>
              <strong>{one.action === "plugin.refuse" ? "Refused" : "Rolled back"}</strong>{" "}
              {one.outcome === "refused" && one.action !== "plugin.refuse" && "(did not work) "}
              <span class="muted">
                by {one.actor.id} on {one.host}
              </span>
              {one.reason && <div class="wrap">{one.reason}</div>}
            </div>
            <span class="note-side">
              <Time at={one.at_ms} />
            </span>
          </li>
        ))}
      </ul>
    </Section>
  );
}

/** Recordings that are compared, and the period, milliseconds. */
const COMPARED = 200;
const PERIOD_MS = 3_600_000;

/** What the versions decided in the last hour. */
function Recordings({ stage }: { stage: string }) {
  const allowed = can("payloads") && can("read", stage);
  const recorded = usePoll<Decisions[] | null>(
    allowed ? `recordings:${stage}` : null,
    30_000,
    async () => {
      try {
        const query = { since_ms: Date.now() - PERIOD_MS, limit: COMPARED };
        return decisionsOf((await get<Page<Recorded>>(path`stages/${stage}/recordings`, { query })).items);
      } catch (error) {
        if (error instanceof ApiError && error.status < 500) return null;
        throw error;
      }
    },
  );
  if (!recorded.data) return null;
  return (
    <Section title="Recorded decisions" side="of the last hour, by version">
      <TableCard
        rows={recorded.data}
        keyOf={(one) => one.key}
        empty={
          <Empty title="None recorded">
            With <code>recording.enabled</code> the host records what a stage read and decided.
          </Empty>
        }
        columns={[
          {
            title: "Version",
            cellClass: "nowrap",
            cell: (one) => (
              <>
                {one.version ?? "–"} <span class="id muted">{shortDigest(one.digest)}</span>
              </>
            ),
          },
          {
            title: "Decisions",
            class: "right",
            cellClass: "num",
            cell: (one) => count(one.total),
          },
          {
            title: "Emitted and failed",
            cell: (one) => (
              <span class="chips">
                {one.results.map(([name, amount, bad]) => (
                  <span class={`chip num ${bad ? "bad-text" : ""}`} key={name}>
                    {bad && <Icon name="dead" size={11} />}
                    {name} × {count(amount)}
                  </span>
                ))}
              </span>
            ),
          },
        ]}
      />
    </Section>
  );
}
