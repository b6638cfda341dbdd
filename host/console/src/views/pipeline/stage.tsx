// One stage: its state, what it consumes and emits, and the ways to its orders and dead letters.

import { useGet } from "../../api/poll.ts";
import type { StageStatus, Topology } from "../../api/types.ts";
import { count, duration, rate } from "../../lib/format.ts";
import { href } from "../../lib/router.ts";
import { can } from "../../session.ts";
import { Facts, Section, Time } from "../../ui/basics.tsx";
import { DetailHead } from "../../ui/list.tsx";
import { Sparkline } from "../../ui/sparkline.tsx";
import { StageActions } from "./control.tsx";
import { history, ratesOfAll } from "./readings.ts";
import { StageState } from "./state.tsx";

export function StageDetail({ status }: { status: StageStatus }) {
  const topology = useGet<Topology>(can("read") ? "topology" : null, 15_000);
  const declared = topology.data?.stages.find((one) => one.name === status.stage);
  const rates = ratesOfAll(status);
  const { stage } = status;
  return (
    <>
      <DetailHead view="pipeline" title={stage} label="Stage">
        <StageActions status={status} />
      </DetailHead>
      <div class="detail-body">
        <Section title="State">
          <Facts
            of={[
              ["State", <StageState stage={status} />],
              ["Reason", status.control === "running" ? "" : status.reason],
              ["Since", status.since_ms ? <Time at={status.since_ms} /> : ""],
              ["Version", status.version ?? "no plugin serves this stage"],
              ["Breaker", status.breaker],
              ["Breaker reason", status.breaker_reason],
              ["Log level", status.log_level],
              ["Next probe", status.next_probe_at_ms ? <Time at={status.next_probe_at_ms} /> : ""],
              ["Queue", status.consumption],
            ]}
          />
        </Section>
        <Section title="Work">
          <Facts
            of={[
              ["Rate", <span class="num">{rate(rates?.perSecond)}</span>],
              ["Last minutes", <Sparkline values={history(stage)} width={240} height={32} />],
              ["p95", <span class="num">{duration(rates?.p95Ms)}</span>],
              ["Queue wait p95", <span class="num">{duration(rates?.waitP95Ms)}</span>],
              ["Failed", <span class="num">{rate(rates?.failedPerSecond)}</span>],
              ["Waiting", <span class="num">{count(status.waiting)}</span>],
              ["Due later", <span class="num">{count(status.scheduled)}</span>],
              ["Held by hosts", <span class="num">{count(status.held)}</span>],
            ]}
          />
        </Section>
        <Section title="Hosts">
          {status.hosts.length === 0 ? (
            <p class="muted">No live host runs it; its messages wait.</p>
          ) : (
            <Facts
              of={status.hosts.map((one) => [
                one.host,
                <>
                  <StageState stage={one} /> <span class="num">{one.version}</span>
                </>,
              ])}
            />
          )}
        </Section>
        {declared && (
          <Section title="Events">
            <Facts
              of={[
                ["Consumes", <Types of={declared.consumes} />],
                ["Emits", <Types of={declared.emits} />],
              ]}
            />
          </Section>
        )}
        <div class="actions">
          <a class="button" href={href("orders", null, { stage })}>
            Orders here
          </a>
          <a class="button" href={href("dead-letters", null, { stage })}>
            Dead letters
          </a>
          <a class="button" href={href("plugins", stage)}>
            Plugin
          </a>
          <a class="button" href={href("events", null, { stage })}>
            Events
          </a>
        </div>
      </div>
    </>
  );
}

export function Types({ of }: { of: string[] }) {
  if (of.length === 0) return <span class="faint">nothing</span>;
  return (
    <span class="chips">
      {of.map((type) => (
        <a class="chip" key={type} href={href("events", null, { type })}>
          {type}
        </a>
      ))}
    </span>
  );
}
