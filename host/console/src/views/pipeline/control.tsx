// What operators do to a stage.

import { path, post } from "../../api/client.ts";
import { refresh } from "../../api/poll.ts";
import type { StageStatus } from "../../api/types.ts";
import { missing } from "../../session.ts";
import { Action } from "../../ui/basics.tsx";
import { ask, say } from "../../ui/dialog.tsx";

const EFFECT = {
  pause: "No host starts another message of this stage. What runs is finished; the rest waits and does not expire.",
  drain: "Hosts finish the messages that they hold and take no new ones. Use it before maintenance.",
  resume: "All hosts process the stage again, and its circuit breaker is closed.",
};
const DONE = { pause: "paused", drain: "draining", resume: "running" };

function control(stage: string, verb: keyof typeof EFFECT): void {
  ask({
    title: `${verb[0]!.toUpperCase()}${verb.slice(1)} ${stage}?`,
    text: EFFECT[verb],
    action: `${verb[0]!.toUpperCase()}${verb.slice(1)}`,
    reason: "optional",
    run: async (reason) => {
      await post(path`stages/${stage}` + `/${verb}`, reason ? { reason } : {});
      say(`${stage} is ${DONE[verb]}`);
      refresh("stages", "ready");
    },
  });
}

function closeBreaker(stage: string): void {
  ask({
    title: `Close the circuit breaker of ${stage}?`,
    text: "Every host that runs it sends messages to the stage again, without waiting for the next probe.",
    action: "Close breaker",
    reason: "optional",
    run: async (reason) => {
      await post(path`stages/${stage}/breaker/close`, reason ? { reason } : {});
      say(`The circuit breaker of ${stage} is closed`);
      refresh("stages", "ready");
    },
  });
}

export function StageActions({ status }: { status: StageStatus }) {
  const { stage, control: state, breaker } = status;
  const off = missing("operate", stage);
  return (
    <span class="stage-actions above">
      {breaker !== "closed" && (
        <Action label="Close breaker" off={off} onClick={() => closeBreaker(stage)} />
      )}
      {state === "running" ? (
        <>
          <Action label="Pause" icon="paused" off={off} onClick={() => control(stage, "pause")} />
          <Action label="Drain" icon="draining" off={off} onClick={() => control(stage, "drain")} />
        </>
      ) : (
        <Action label="Resume" icon="running" off={off} onClick={() => control(stage, "resume")} />
      )}
    </span>
  );
}
