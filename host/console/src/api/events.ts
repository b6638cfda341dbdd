// Events of the log, with their data as it was sent.

import { raw, rawElements } from "../lib/json.ts";
import { send } from "./client.ts";
import type { LoggedEvent } from "./types.ts";

export interface EventRow extends LoggedEvent {
  /** The data as JSON text. */
  raw: string | null;
}

export function eventOf(text: string): EventRow {
  return { ...(JSON.parse(text) as LoggedEvent), raw: raw(text, "data") };
}

export type Filter = Record<string, string | number | null | undefined>;

export interface EventPage {
  items: EventRow[];
  next: number | null;
}

/** A page of a list of events, oldest first. */
export async function readEvents(at: string, query: Filter): Promise<EventPage> {
  const { text } = await send(at, { query });
  const { next } = JSON.parse(text) as { next?: number | null };
  return { items: rawElements(text, "items").map(eventOf), next: next ?? null };
}

/** Events in one page. */
const PAGE = 200;
/** How far back the newest events are looked for, step by step, milliseconds. */
const STEPS_MS = [60_000, 600_000, 3_600_000, 24 * 3_600_000, 30 * 24 * 3_600_000, 0];
/** Pages that are read for one screen, when many rows match no filter. */
const PAGES_MAX = 20;

/**
 * The newest events that match, oldest first, and whether there are older ones. The API lists the log
 * from its beginning, so this looks for the shortest period that has enough of them.
 */
export async function newestEvents(
  filter: Filter,
  wanted: number,
  now: number,
  read: (query: Filter) => Promise<EventPage> = (query) => readEvents("events", query),
): Promise<{ items: EventRow[]; older: boolean; end: number }> {
  const floor = Number(filter["since"] ?? 0);
  for (const step of STEPS_MS) {
    const since = step === 0 ? floor : Math.max(floor, now - step);
    const found = await all({ ...filter, since: since || undefined }, wanted, read);
    const last = since <= floor;
    if (found.items.length >= wanted || last) {
      const items = found.items.slice(-wanted);
      return { items, older: !last || found.items.length > items.length, end: found.end };
    }
  }
  return { items: [], older: false, end: 0 };
}

/** The last events of a period; of the rest only as many as are wanted are kept. */
async function all(
  filter: Filter,
  wanted: number,
  read: (query: Filter) => Promise<EventPage>,
): Promise<{ items: EventRow[]; end: number }> {
  let items: EventRow[] = [];
  let cursor: number | null = null;
  let end = 0;
  for (let page = 0; ; page += 1) {
    const found: EventPage = await read({ ...filter, cursor, limit: PAGE });
    items = [...items, ...found.items].slice(-wanted - 1);
    end = Math.max(end, found.next ?? 0, found.items.at(-1)?.seq ?? 0);
    if (found.next === null) return { items, end };
    cursor = found.next;
    if (page >= PAGES_MAX) return { items, end };
  }
}
