// The pipeline: what is wrong with it, its graph, and its stages in figures.

import { useGet, useReadiness } from "../../api/poll.ts";
import type {
  DeadLetterGroup,
  Page,
  PluginStatus,
  StageStatus,
  Topology,
} from "../../api/types.ts";
import { count, duration, plural, rate } from "../../lib/format.ts";
import { href, route } from "../../lib/router.ts";
import { can } from "../../session.ts";
import { Empty, ProblemNote, Section, Skeleton, Time } from "../../ui/basics.tsx";
import { Icon } from "../../ui/icons.tsx";
import { RowLink, Split } from "../../ui/list.tsx";
import { Sparkline } from "../../ui/sparkline.tsx";
import { TableCard } from "../../ui/table.tsx";
import { TopBar } from "../../ui/topbar.tsx";
import { StageActions } from "./control.tsx";
import { Graph } from "./graph.tsx";
import { findings, type Finding } from "./problems.ts";
import { history, METRICS_MS, ratesOfAll, useReadings } from "./readings.ts";
import { StageDetail } from "./stage.tsx";
import { StageState } from "./state.tsx";

export function Pipeline() {
  const all = can("read");
  const stages = useGet<Page<StageStatus>>("stages", METRICS_MS);
  const topology = useGet<Topology>(all ? "topology" : null, 15_000);
  const readiness = useReadiness(10_000);
  const plugins = useGet<Page<PluginStatus>>("plugins", 10_000);
  const groups = useGet<Page<DeadLetterGroup>>(all ? "dead-letters/groups" : null, 10_000, {
    status: "open",
    limit: 200,
  });
  useReadings();
  const list = stages.data?.items ?? [];
  const open = new Map<string, number>();
  for (const group of groups.data?.items ?? []) {
    open.set(group.stage, (open.get(group.stage) ?? 0) + group.open);
  }
  const found = findings({
    readiness: readiness.data,
    stages: list,
    groups: groups.data?.items ?? [],
    plugins: plugins.data?.items ?? [],
    topology: topology.data,
  });
  const byName = new Map(list.map((stage) => [stage.stage, stage]));
  const { id } = route.value;
  const opened = id ? byName.get(id) : undefined;
  // Everything appears at once: what came first would be pushed down by what needs attention.
  const asked = [stages, readiness, plugins, ...(all ? [topology, groups] : [])];
  const answered = asked.every((one) => one.data !== null || one.problem !== null);
  const page = answered ? (
    <div class="page">
      <div class="sections">
        <ProblemNote problem={stages.problem} what="Stages" />
        <Figures stages={list} open={open} />
        {found.length > 0 && <Findings found={found} />}
        {all && (
          <Section title="Graph" side={<Legend />}>
            <ProblemNote problem={topology.problem} what="Graph" />
            {topology.data && topology.data.stages.length > 0 && (
              <Graph topology={topology.data} stages={byName} open={open} />
            )}
          </Section>
        )}
        <Section title="Stages" side={<span>of all hosts</span>}>
          {stages.data && <StageTable stages={list} open={open} />}
        </Section>
      </div>
    </div>
  ) : (
    <Skeleton lines={16} />
  );
  return (
    <>
      <TopBar title="Pipeline">
        <span class="muted">
          {stages.data ? plural(list.length, "stage") : ""}
          {found.length > 0 ? `, ${plural(found.length, "problem")}` : ""}
        </span>
      </TopBar>
      <Split list={page} detail={opened ? <StageDetail status={opened} /> : null} slim />
    </>
  );
}

function Legend() {
  return (
    <span class="legend hide-narrow">
      <span>
        <svg>
          <line class="edge" x1="0" y1="4" x2="16" y2="4" />
        </svg>
        events
      </span>
      <span>
        <svg>
          <line class="edge back" x1="0" y1="4" x2="16" y2="4" />
        </svg>
        back to an earlier stage
      </span>
    </span>
  );
}

function Figures(props: { stages: StageStatus[]; open: Map<string, number> }) {
  const { stages, open } = props;
  const rates = stages.map(ratesOfAll);
  const known = rates.filter((one) => one !== null);
  const sum = (of: (one: (typeof known)[number]) => number) =>
    known.length > 0 ? known.reduce((total, one) => total + of(one), 0) : null;
  const waiting = stages.reduce((total, one) => total + (one.waiting ?? 0), 0);
  const scheduled = stages.reduce((total, one) => total + (one.scheduled ?? 0), 0);
  const letters = [...open.values()].reduce((a, b) => a + b, 0);
  const slowest = Math.max(...known.map((one) => one.p95Ms ?? 0), 0);
  const failed = sum((one) => one.failedPerSecond);
  const figures: [string, string, boolean?][] = [
    ["deliveries", rate(sum((one) => one.perSecond))],
    ["failed attempts", rate(failed), (failed ?? 0) > 0],
    ["slowest p95", slowest > 0 ? duration(slowest) : "–"],
    ["waiting", count(waiting)],
    ["due later", count(scheduled)],
    ["open dead letters", count(letters), letters > 0],
  ];
  return (
    <div class="kpis">
      {figures.map(([label, value, bad]) => (
        <div class={`kpi ${bad ? "bad" : ""}`} key={label}>
          <div class="value">{value}</div>
          <div class="label">{label}</div>
        </div>
      ))}
    </div>
  );
}

function Findings({ found }: { found: Finding[] }) {
  return (
    <Section title="Needs attention">
      <div class="notes">
        {found.map((one) => (
          <div class={`note ${one.level}`} key={one.title + one.detail}>
            <Icon name={one.level === "bad" ? "warning" : "info"} />
            <div>
              <strong class="wrap">{one.title}</strong>
              {one.detail && <div class="wrap">{one.detail}</div>}
            </div>
            <span class="note-side small muted hide-narrow">
              {one.at ? <Time at={one.at} /> : null}
            </span>
            {one.to && (
              <a class="note-side" href={href(one.to.view, one.to.id, one.to.query)}>
                Look<span class="visually-hidden"> at: {one.title}</span>
              </a>
            )}
          </div>
        ))}
      </div>
    </Section>
  );
}

function StageTable(props: { stages: StageStatus[]; open: Map<string, number> }) {
  const { stages, open } = props;
  const worst = (stage: StageStatus) =>
    (open.get(stage.stage) ? 4 : 0) +
    (stage.breaker !== "closed" || !stage.version ? 2 : 0) +
    (stage.control !== "running" ? 1 : 0);
  const sorted = [...stages].sort(
    (a, b) => worst(b) - worst(a) || a.stage.localeCompare(b.stage),
  );
  return (
    <TableCard
      class="rows"
      rows={sorted}
      keyOf={(stage) => stage.stage}
      empty={
        <Empty title="No stages yet">
          Copy a plugin file into the plugins folder of the host: it is loaded while the host runs.
        </Empty>
      }
      columns={[
        {
          title: "Stage",
          cell: ({ stage }) => (
            <RowLink to={href("pipeline", stage)} current={route.value.id === stage}>
              {stage}
            </RowLink>
          ),
        },
        { title: "State", cellClass: "nowrap", cell: (stage) => <StageState stage={stage} /> },
        {
          title: "Rate",
          class: "right",
          cellClass: "num",
          cell: (stage) => rate(ratesOfAll(stage)?.perSecond),
        },
        {
          title: "Last minutes",
          class: "hide-narrow hide-split",
          cell: ({ stage }) => <Sparkline values={history(stage)} />,
        },
        {
          title: "p95",
          class: "right",
          cellClass: "num nowrap",
          cell: (stage) => duration(ratesOfAll(stage)?.p95Ms),
        },
        { title: "Waiting", class: "right", cellClass: "num", cell: (stage) => count(stage.waiting) },
        {
          title: "Failed",
          class: "right",
          cellClass: "num",
          cell: (stage) => {
            const failed = ratesOfAll(stage)?.failedPerSecond;
            return <span class={failed ? "bad-text" : ""}>{rate(failed)}</span>;
          },
        },
        {
          title: "Dead",
          class: "right",
          cellClass: "num",
          cell: ({ stage }) => {
            const dead = open.get(stage) ?? 0;
            return <span class={dead > 0 ? "bad-text" : ""}>{count(dead)}</span>;
          },
        },
        {
          title: "Version",
          class: "hide-split",
          cellClass: "num",
          cell: (stage) => stage.version ?? "–",
        },
        {
          title: "Actions",
          hidden: true,
          class: "right hide-split shrink",
          cell: (stage) => <StageActions status={stage} />,
        },
      ]}
    />
  );
}
