// The audit log, newest first.

import { get } from "./client.ts";
import type { AuditLog, AuditRecord } from "./types.ts";

export type AuditFilter = Record<string, string | number | null | undefined>;

/** Records in one page, at most. */
const PAGE = 200;

export interface NewestRecords {
  /** Newest first. */
  items: AuditRecord[];
  older: boolean;
}

/** The newest records that match. */
export async function newestRecords(
  filter: AuditFilter,
  wanted: number,
  read: (query: AuditFilter) => Promise<AuditLog> = (query) => get("audit", { query }),
): Promise<NewestRecords> {
  const items: AuditRecord[] = [];
  let cursor: number | null = null;
  do {
    const limit = Math.min(PAGE, wanted - items.length);
    const page: AuditLog = await read({ ...filter, order: "newest", cursor, limit });
    items.push(...page.items);
    cursor = page.next ?? null;
  } while (cursor !== null && items.length < wanted);
  return { items, older: cursor !== null };
}
