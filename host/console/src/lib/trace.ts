// Traces: their ids in the attribute `traceparent` of events, and where they are shown.

/** The id of the trace in a `traceparent`, as the W3C's Trace Context defines it; none: it is not valid. */
export function traceIdOf(traceparent: string | undefined): string | null {
  const id = /^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}/.exec(traceparent ?? "")?.[1];
  return id && !/^0+$/.test(id) ? id : null;
}

/** Where a trace is shown, from the host's template; none: the host has no template. */
export function traceUrl(template: string | null | undefined, id: string): string | null {
  return template ? template.replaceAll("{trace_id}", id) : null;
}
