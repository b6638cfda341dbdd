// The audit log. The API lists it from its beginning; people want its end.

import { get } from "./client.ts";
import type { AuditLog, AuditRecord } from "./types.ts";

export type AuditFilter = Record<string, string | number | null | undefined>;

/** How far before the newest record the search begins, step by step. */
const SPANS = [200, 2_000, 20_000, Infinity];
/** Pages that are read in one step. */
const PAGES_MAX = 25;

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
  const { head, anchor } = await read({ limit: 1 });
  for (const span of SPANS) {
    const start = Math.max(anchor.pos, head.pos - span);
    let items: AuditRecord[] = [];
    let cursor: number | null = start;
    for (let page = 0; cursor !== null && page < PAGES_MAX; page += 1) {
      const found: AuditLog = await read({ ...filter, cursor, limit: 200 });
      items = [...items, ...found.items].slice(-wanted - 1);
      cursor = found.next ?? null;
    }
    const whole = start <= anchor.pos;
    if (items.length >= wanted || whole) {
      return { items: items.slice(-wanted).reverse(), older: !whole || items.length > wanted };
    }
  }
  return { items: [], older: false };
}
