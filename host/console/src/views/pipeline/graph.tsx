// The graph of stages. Lines are drawn in SVG, stages are links in HTML on top of them.

import { useComputed, useSignal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import type { StageStatus, Topology } from "../../api/types.ts";
import { headOf, layOut, pathOf, type PlacedNode } from "../../graph/layout.ts";
import { graphOf } from "../../graph/model.ts";
import { count, duration, rate } from "../../lib/format.ts";
import { href, route } from "../../lib/router.ts";
import { Status } from "../../ui/basics.tsx";
import { ratesOfAll } from "./readings.ts";

const SIZES = {
  nodeWidth: 194,
  headHeight: 68,
  sourceHeight: 44,
  portHeight: 23,
  laneHeight: 12,
  layerGap: 52,
  nodeGap: 18,
};

interface Props {
  topology: Topology;
  stages: Map<string, StageStatus>;
  open: Map<string, number>;
}

export function Graph({ topology, stages, open }: Props) {
  const key = JSON.stringify(topology.stages.map((one) => [one.name, one.consumes, one.emits]));
  const layout = useMemo(() => layOut(graphOf(topology), SIZES), [key]);
  const picked = useSignal<string | null>(null);
  const picking = useComputed(() => (picked.value ? "picking" : ""));
  const consumed = new Set(layout.edges.map((edge) => edge.type));
  const pick = (what: string | null) => ({
    onMouseEnter: () => (picked.value = what),
    onMouseLeave: () => (picked.value = null),
  });
  const isLit = (edge: { type: string; from: string; to: string }) =>
    [edge.type, edge.from, edge.to].includes(picked.value ?? "");
  return (
    <div class="card graph" role="group" aria-label="Stages and event types">
      <div
        class={`graph-canvas ${picking.value}`}
        style={{ width: `${layout.width}px`, height: `${layout.height}px` }}
      >
        <svg width={layout.width} height={layout.height} aria-hidden="true">
          {layout.edges.map((edge) => {
            const [x, y] = edge.points.at(-1)!;
            const lit = isLit(edge) ? "lit" : "";
            return (
              <g key={`${edge.from} ${edge.type} ${edge.to}`} class={`edge-arrow ${lit}`}>
                <path class={`edge ${lit} ${edge.back ? "back" : ""}`} d={pathOf(edge)} />
                <path class="arrow" d={`M${x} ${y}l-6 -3.5v7z`} />
              </g>
            );
          })}
        </svg>
        {layout.nodes.map((node) => (
          <div
            key={node.id}
            class={`node ${node.kind} ${levelOf(stages.get(node.name), open.get(node.name))}`}
            style={{
              left: `${node.x}px`,
              top: `${node.y}px`,
              width: `${node.width}px`,
              height: `${node.height}px`,
            }}
          >
            {node.kind === "stage" ? (
              <StageHead node={node} status={stages.get(node.name)} pick={pick(node.id)} />
            ) : (
              <div class="node-head" style={{ height: `${headOf(node, SIZES)}px` }} {...pick(node.id)}>
                <div class="node-name">
                  <strong>From outside</strong>
                </div>
                <span class="small muted">API and other programs</span>
              </div>
            )}
            {node.emits.map((type) => (
              <a
                key={type}
                class={`port ${consumed.has(type) ? "" : "loose"}`}
                style={{ height: `${SIZES.portHeight}px` }}
                href={href("events", null, { type })}
                title={consumed.has(type) ? type : `${type}: no stage consumes it`}
                {...pick(type)}
              >
                <span>{type}</span>
              </a>
            ))}
          </div>
        ))}
      </div>
    </div>
  );
}

function levelOf(status: StageStatus | undefined, open = 0): string {
  if (!status) return "";
  if (open > 0 || status.breaker !== "closed" || !status.version) return "bad";
  return status.control === "running" ? "" : "warn";
}

function StageHead(props: { node: PlacedNode; status: StageStatus | undefined; pick: object }) {
  const { node, status } = props;
  const rates = status ? ratesOfAll(status) : null;
  return (
    <a
      class="node-head"
      style={{ height: `${headOf(node, SIZES)}px` }}
      href={href("pipeline", node.name)}
      aria-current={route.value.id === node.name ? "true" : undefined}
      {...props.pick}
    >
      <div class="node-name">
        <strong>{node.name}</strong>
        {status && status.control !== "running" && <Status value={status.control} />}
        {status?.control === "running" && (
          <span class="small muted num">{status.version ?? "no plugin"}</span>
        )}
        {status && status.breaker !== "closed" && (
          <Status value="breaker" tone="bad" icon="warning" />
        )}
      </div>
      <div class="node-figures">
        <span>
          {rate(rates?.perSecond)}
          <small>rate</small>
        </span>
        <span>
          {duration(rates?.p95Ms)}
          <small>p95</small>
        </span>
        <span>
          {count(status?.waiting)}
          <small>waiting</small>
        </span>
      </div>
    </a>
  );
}

