// Chains of events: the stopped ones and the largest ones; stop and resume.

import { path, post } from "../../api/client.ts";
import { refresh, useGet } from "../../api/poll.ts";
import type { Chain, Page } from "../../api/types.ts";
import { count } from "../../lib/format.ts";
import { href } from "../../lib/router.ts";
import { missing } from "../../session.ts";
import { Action, Empty, Section, Status, Time } from "../../ui/basics.tsx";
import { ask, say } from "../../ui/dialog.tsx";
import { TableCard } from "../../ui/table.tsx";

export function Chains() {
  const chains = useGet<Page<Chain>>("chains", 5_000);
  const off = missing("operate");
  return (
    <Section title="Chains of events" side="the stopped ones and the largest ones">
      <TableCard
        reading={chains}
        rows={chains.data?.items}
        keyOf={(one) => one.correlation_id}
        empty={
          <Empty title="No large chains">
            A chain that does not end by itself appears here, and can be stopped.
          </Empty>
        }
        columns={[
          {
            title: "First event",
            class: "truncate",
            cell: (one) => (
              <>
                <a class="id" href={href("events", null, { correlation: one.correlation_id })}>
                  {one.correlation_id}
                </a>
                {one.reason && <div class="muted small ellipsis">{one.reason}</div>}
              </>
            ),
          },
          { title: "State", cell: (one) => <Status value={one.state} /> },
          { title: "Events", class: "right", cellClass: "num", cell: (one) => count(one.events) },
          {
            title: "Last",
            class: "right hide-narrow",
            cell: (one) => <Time at={one.last_at_ms} />,
          },
          {
            title: "Actions",
            hidden: true,
            class: "right shrink",
            cell: (one) => (
              <Action
                label={one.state === "stopped" ? "Resume" : "Stop"}
                off={off}
                onClick={() => change(one)}
              />
            ),
          },
        ]}
      />
    </Section>
  );
}

function change({ correlation_id: id, state }: Chain): void {
  const stops = state !== "stopped";
  ask({
    title: stops ? `Stop the chain ${id}?` : `Resume the chain ${id}?`,
    text: stops
      ? "Every delivery of it is skipped, on every host: those that wait, those that fall due later, and the call under way."
      : "It may run again, counted from zero. What was skipped is not repeated.",
    action: stops ? "Stop" : "Resume",
    ...(stops ? { kind: "danger" as const } : {}),
    reason: "optional",
    run: async (reason) => {
      const verb = stops ? "stop" : "resume";
      await post(path`chains/${id}` + `/${verb}`, reason ? { reason } : {});
      say(stops ? "The chain is stopped" : "The chain runs again");
      refresh("chains");
    },
  });
}
