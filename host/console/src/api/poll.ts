// Resources that are read again while a view shows them: not while the page is hidden, and not
// when no component uses them. All components that use the same resource share one reading.

import { signal, type Signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { asProblem, get } from "./client.ts";
import type { Problem, Readiness } from "./types.ts";

/** Waits between attempts while reading fails, milliseconds. */
const RETRY_MIN_MS = 1_000;
const RETRY_MAX_MS = 15_000;
/** What was read so recently is not read again for another component, milliseconds. */
const FRESH_MS = 500;
/** Resources that no view uses any more, kept to show something when one returns. */
const KEPT = 60;

export interface Reading<T> {
  data: T | null;
  problem: Problem | null;
}

class Resource<T> {
  readonly state: Signal<Reading<T>> = signal({ data: null, problem: null });
  private intervals: number[] = [];
  private timer: ReturnType<typeof setTimeout> | undefined;
  private failures = 0;
  private running = false;
  private again = false;
  private readAt = 0;

  constructor(private readonly read: () => Promise<T>) {}

  get used(): boolean {
    return this.intervals.length > 0;
  }

  use(interval: number): () => void {
    this.intervals.push(interval);
    // Components that appear together share one reading.
    if (Date.now() - this.readAt > FRESH_MS && !this.running) this.refresh();
    else if (!this.running) this.schedule();
    return () => {
      this.intervals.splice(this.intervals.indexOf(interval), 1);
      if (!this.used) clearTimeout(this.timer);
    };
  }

  /** Reads now; once more if a reading is under way, because it may have begun before a change. */
  refresh(): void {
    clearTimeout(this.timer);
    if (this.running) this.again = true;
    else void this.run();
  }

  private async run(): Promise<void> {
    this.running = true;
    this.again = false;
    try {
      this.state.value = { data: await this.read(), problem: null };
      this.failures = 0;
      this.readAt = Date.now();
    } catch (error) {
      // What was read before stays visible.
      this.state.value = { data: this.state.peek().data, problem: asProblem(error) };
      this.failures += 1;
    }
    this.running = false;
    if (this.again) return void this.run();
    this.schedule();
  }

  private schedule(): void {
    clearTimeout(this.timer);
    if (!this.used || document.hidden) return;
    const interval = Math.min(...this.intervals);
    const retry = Math.min(RETRY_MAX_MS, RETRY_MIN_MS * 2 ** (this.failures - 1));
    const wait = this.failures > 0 ? (interval > 0 ? Math.min(retry, interval) : retry) : interval;
    if (wait > 0) this.timer = setTimeout(() => void this.run(), wait);
  }
}

const resources = new Map<string, Resource<unknown>>();

if (typeof document !== "undefined") {
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    for (const resource of resources.values()) if (resource.used) resource.refresh();
  });
}

function resource<T>(key: string, read: () => Promise<T>): Resource<T> {
  let found = resources.get(key) as Resource<T> | undefined;
  if (!found) {
    for (const [old, one] of resources) {
      if (resources.size < KEPT) break;
      if (!one.used) resources.delete(old);
    }
    found = new Resource(read);
    resources.set(key, found as Resource<unknown>);
  }
  return found;
}

export interface Polled<T> extends Reading<T> {
  refresh: () => void;
}

/**
 * Reads a resource again every `interval` milliseconds; 0: once. `key` names it, so `read` has to be the
 * same for the same key.
 */
export function usePoll<T>(key: string | null, interval: number, read: () => Promise<T>): Polled<T> {
  const found = key === null ? null : resource(key, read);
  useEffect(() => found?.use(interval), [found, interval]);
  const state = found?.state.value ?? { data: null, problem: null };
  return { ...state, refresh: () => found?.refresh() };
}

/** The same for a path of the API. */
export function useGet<T>(
  at: string | null,
  interval: number,
  query: Record<string, string | number | null | undefined> = {},
): Polled<T> {
  const key = at === null ? null : `${at}?${JSON.stringify(query)}`;
  return usePoll<T>(key, interval, () => get<T>(at!, { query }));
}

/** Whether the host can do its work. */
export function useReadiness(interval: number): Polled<Readiness> {
  return usePoll("ready", interval, () => get<Readiness>("ready", { accepts: 503 }));
}

/** Reads what starts with a path again, after a change. */
export function refresh(...starts: string[]): void {
  for (const [key, one] of resources) {
    if (one.used && starts.some((start) => key.startsWith(start))) one.refresh();
  }
}

/** Forgets everything, after a log-in as another principal. */
export function forgetAll(): void {
  for (const [key, one] of resources) if (!one.used) resources.delete(key);
  for (const one of resources.values()) one.refresh();
}

/** The time, updated while the page is visible; it drives relative times. */
export const now = signal(Date.now());
if (typeof document !== "undefined") {
  setInterval(() => {
    if (!document.hidden) now.value = Date.now();
  }, 1_000);
}
