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

/** A page of a list of events. */
export async function readEvents(at: string, query: Filter): Promise<EventPage> {
  const { text } = await send(at, { query });
  const { next } = JSON.parse(text) as { next?: number | null };
  return { items: rawElements(text, "items").map(eventOf), next: next ?? null };
}

/** Events in one page, at most. */
const PAGE = 200;
/** Pages that are read for one screen, when many rows match no filter. */
const PAGES_MAX = 20;

/**
 * The newest events that match and come before a position, newest first. `next` is where the older ones
 * are; none if there is nothing left.
 */
export async function newestEvents(
  filter: Filter,
  wanted: number,
  before: number | null = null,
  read: (query: Filter) => Promise<EventPage> = (query) => readEvents("events", query),
): Promise<EventPage> {
  const items: EventRow[] = [];
  let next = before;
  for (let page = 0; page < PAGES_MAX; page += 1) {
    const limit = Math.min(PAGE, wanted - items.length);
    const found = await read({ ...filter, order: "newest", cursor: next, limit });
    items.push(...found.items);
    next = found.next;
    if (next === null || items.length >= wanted) break;
  }
  return { items, next };
}
