// Server-sent events that survive a restart of the host. They are read with `fetch`, because an
// `EventSource` neither tells the status of a refusal nor notices a connection that ended in silence, as
// they do when a laptop sleeps.

import { MessageReader, type Message } from "../lib/sse.ts";
import { address, loggedOut, problemOf, reachable } from "./client.ts";

/** Waits before another attempt, milliseconds. */
const RETRY_MIN_MS = 500;
const RETRY_MAX_MS = 10_000;
/** The host sends a comment every 15 seconds. After such a silence the connection is taken for dead. */
const SILENCE_MAX_MS = 40_000;

export interface StreamOptions {
  at: string;
  query?: Record<string, string | null | undefined>;
  /** The name of the parameter with the position after which the stream starts. */
  from: "cursor" | "after";
  /** The position after which it starts first; none: what comes next. */
  position?: number;
  /** A message as it was sent, with its position. */
  onMessage: (text: string, position: number) => void;
  /** The host has nothing more to send. */
  onEnd?: () => void;
  onState?: (state: StreamState) => void;
}

export type StreamState = "connecting" | "live" | "ended";

/** Follows a stream until the returned function is called. No message is missed, none comes twice. */
export function follow(options: StreamOptions): () => void {
  const stream = new Stream(options);
  void stream.run();
  return () => stream.stop();
}

class Stream {
  private position: number | undefined;
  private stopped = false;
  private failures = 0;
  private abort: AbortController | undefined;

  constructor(private readonly options: StreamOptions) {
    this.position = options.position;
  }

  stop(): void {
    this.stopped = true;
    this.abort?.abort();
  }

  async run(): Promise<void> {
    while (!this.stopped) {
      this.options.onState?.("connecting");
      try {
        await this.connect();
      } catch {
        // The host or something before it has ended the connection; the next attempt tells.
      }
      if (this.stopped) return;
      const wait = Math.min(RETRY_MAX_MS, RETRY_MIN_MS * 2 ** this.failures);
      this.failures += 1;
      await new Promise((done) => setTimeout(done, wait));
    }
  }

  /** Reads until the connection ends. */
  private async connect(): Promise<void> {
    const { at, query, from, onState } = this.options;
    const abort = new AbortController();
    this.abort = abort;
    let silence = setTimeout(() => abort.abort(), SILENCE_MAX_MS);
    try {
      const response = await this.request(address(at, { ...query, [from]: this.position }), abort);
      if (response.status === 204) return this.end();
      if (response.status === 401) loggedOut.value = problemOf(response, await response.text());
      if (!response.ok || !response.body) return;
      this.failures = 0;
      reachable.value = true;
      onState?.("live");
      const messages = new MessageReader();
      const pieces = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await pieces.read();
        if (done || this.stopped) return;
        clearTimeout(silence);
        silence = setTimeout(() => abort.abort(), SILENCE_MAX_MS);
        for (const message of messages.feed(value)) this.take(message);
      }
    } finally {
      clearTimeout(silence);
      abort.abort();
    }
  }

  private async request(url: string, { signal }: AbortController): Promise<Response> {
    try {
      const headers = { accept: "text/event-stream" };
      return await fetch(url, { headers, credentials: "same-origin", cache: "no-store", signal });
    } catch (error) {
      if (!this.stopped) reachable.value = false;
      throw error;
    }
  }

  private take({ event, data, id }: Message): void {
    if (event === "end") return this.end();
    const at = Number(id);
    if (this.position !== undefined && at <= this.position) return;
    this.position = at;
    this.options.onMessage(data, at);
  }

  private end(): void {
    this.stop();
    this.options.onState?.("ended");
    this.options.onEnd?.();
  }
}
