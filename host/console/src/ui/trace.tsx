// The traces of something: their ids, and links to the tracing system if the host is configured with one.

import { traceIdOf, traceUrl } from "../lib/trace.ts";
import { session } from "../session.ts";
import { Copy } from "./basics.tsx";
import { Icon } from "./icons.tsx";

/** Traces that are shown at most: one for each request about an order. */
const SHOWN_MAX = 5;

/** The traces that events belong to, the first one first; null if there are none. */
export function tracesOf(traceparents: (string | undefined)[]) {
  const ids = new Set(traceparents.map(traceIdOf).filter((id) => id !== null));
  if (ids.size === 0) return null;
  return [...ids].slice(0, SHOWN_MAX).map((id) => <Trace id={id} key={id} />);
}

function Trace({ id }: { id: string }) {
  const url = traceUrl(session.value?.trace_url, id);
  return (
    <div class="trace">
      <Copy text={id} />
      {url && (
        <a href={url} target="_blank" rel="noreferrer" title={url}>
          Open
          <span class="visually-hidden"> the trace {id} in another window</span>
          <Icon name="outside" size={12} />
        </a>
      )}
    </div>
  );
}
