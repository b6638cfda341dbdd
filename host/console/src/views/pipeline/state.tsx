// The state of a stage, as a list or a page shows it.

import type { StageStatus } from "../../api/types.ts";
import { Status } from "../../ui/basics.tsx";

/** Of all hosts, or of one. */
type Shown = Pick<StageStatus, "version" | "breaker" | "control" | "consumption">;

/** Control, breaker and consumption in one word: the worst of them. */
export function StageState({ stage }: { stage: Shown }) {
  if (!stage.version) return <Status value="no plugin" tone="bad" icon="warning" />;
  if (stage.breaker !== "closed") {
    return <Status value={`breaker ${stage.breaker}`} tone="bad" icon="warning" />;
  }
  if (stage.control !== "running") return <Status value={stage.control} />;
  if (stage.consumption === "consuming") return <Status value="running" />;
  return <Status value={stage.consumption} tone="warn" icon="info" />;
}
