// The filters of dead letters: in the address of the page, in requests, and in jobs.

export interface Filter {
  stage?: string;
  code?: string;
  group?: string;
  subject?: string;
  all?: true;
}

const NAMES = ["stage", "code", "group", "subject"] as const;

/** The filter of a job. Without any condition it selects every open dead letter, and says so. */
export function filterOf(query: Record<string, string>): Filter {
  const filter: Filter = {};
  for (const name of NAMES) if (query[name]) filter[name] = query[name];
  return Object.keys(filter).length === 0 ? { all: true } : filter;
}

export function readsAll(filter: Filter): boolean {
  return filter.all === true;
}

/** The parameters of a list. Without a status, open ones are meant. */
export function queryOf(query: Record<string, string>): Record<string, string | undefined> {
  const status = query["status"] ?? "open";
  const { stage, code, group, subject } = query;
  return { stage, code, group, subject, status: status === "any" ? undefined : status };
}

/** The filter in words. */
export function describe(filter: Filter): string {
  if (filter.all) return "every open dead letter";
  const { stage, code, group, subject } = filter;
  const parts = [
    stage && `of stage ${stage}`,
    code && `with code ${code}`,
    group && `of group ${group}`,
    subject && `of ${subject}`,
  ];
  return `open dead letters ${parts.filter(Boolean).join(", ")}`;
}
