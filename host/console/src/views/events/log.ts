// The rows of the event log: the newest first, and what arrives after them.

import { signal, type Signal } from "@preact/signals";
import { asProblem } from "../../api/client.ts";
import { newestEvents, eventOf, type EventRow, type Filter } from "../../api/events.ts";
import { follow, type StreamState } from "../../api/stream.ts";
import type { Problem } from "../../api/types.ts";

/** Rows of the first screen, and of each older page. */
const FIRST = 100;
/** Rows that are kept while new ones arrive. */
const ROWS_MAX = 1_000;
/** How often rows that arrived are shown, milliseconds. */
const SHOW_MS = 250;
/** Clocks of the browser and the host may differ. */
const SKEW_MS = 120_000;

export interface LogState {
  /** Newest first; none before the first answer. */
  rows: EventRow[] | null;
  older: boolean;
  problem: Problem | null;
  stream: StreamState;
  /** Rows that were dropped because too many arrived. */
  dropped: boolean;
}

/** The log with a filter. `stop` ends the stream. */
export class Log {
  readonly state: Signal<LogState> = signal({
    rows: null,
    older: false,
    problem: null,
    stream: "connecting",
    dropped: false,
  });
  private readonly seen = new Set<number>();
  private arrived: EventRow[] = [];
  private timer: ReturnType<typeof setTimeout> | undefined;
  private stopStream: (() => void) | undefined;
  private stopped = false;
  /** The position before which older rows are. */
  private next: number | null = null;

  constructor(
    private readonly filter: Filter,
    private readonly live: boolean,
  ) {
    void this.start();
  }

  private change(changes: Partial<LogState>): void {
    this.state.value = { ...this.state.peek(), ...changes };
  }

  private async start(): Promise<void> {
    const began = Date.now();
    try {
      const { items, next } = await newestEvents(this.filter, FIRST);
      if (this.stopped) return;
      for (const one of items) this.seen.add(one.seq);
      this.next = next;
      this.change({ rows: items, older: next !== null, problem: null });
      if (this.live) this.open(items[0]?.seq ?? 0, began);
    } catch (error) {
      if (this.stopped) return;
      this.change({ problem: asProblem(error) });
      this.timer = setTimeout(() => void this.start(), 3_000);
    }
  }

  /** Without a position the stream starts with what was logged since the list was read. */
  private open(end: number, began: number): void {
    const { since: _, ...filter } = this.filter;
    const query: Record<string, string | null> = {};
    for (const [name, value] of Object.entries(filter)) query[name] = value == null ? null : String(value);
    if (end === 0) query["since"] = String(began - SKEW_MS);
    this.stopStream = follow({
      at: "events",
      query,
      from: "cursor",
      ...(end > 0 ? { position: end } : {}),
      onMessage: (text) => this.add(text),
      onState: (stream) => this.change({ stream }),
    });
  }

  private add(text: string): void {
    const event = eventOf(text);
    if (this.seen.has(event.seq)) return;
    this.seen.add(event.seq);
    this.arrived.push(event);
    this.timer ??= setTimeout(() => this.show(), SHOW_MS);
  }

  private show(): void {
    this.timer = undefined;
    const { rows, dropped } = this.state.peek();
    const all = [...this.arrived.reverse(), ...(rows ?? [])];
    this.arrived = [];
    const kept = all.slice(0, ROWS_MAX);
    for (const one of all.slice(ROWS_MAX)) this.seen.delete(one.seq);
    const lost = all.length > kept.length;
    if (lost) this.next = kept.at(-1)?.seq ?? this.next;
    this.change({ rows: kept, dropped: dropped || lost, older: this.state.peek().older || lost });
  }

  /** Reads the rows before the oldest one. */
  async loadOlder(): Promise<void> {
    const before = this.next;
    if (before === null) return;
    const { items, next } = await newestEvents(this.filter, FIRST, before);
    // Rows may have been dropped meanwhile: these no longer follow the oldest one.
    if (this.stopped || this.next !== before) return;
    this.next = next;
    for (const one of items) this.seen.add(one.seq);
    const current = this.state.peek().rows ?? [];
    this.change({ rows: [...current, ...items], older: next !== null });
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
    this.stopStream?.();
  }
}
