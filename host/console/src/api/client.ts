// Requests to the API. Every error is a problem document, or says that the host did not answer.

import { signal } from "@preact/signals";
import { API } from "../lib/base.ts";
import type { Problem } from "./types.ts";

/** An error as the host describes it. */
export class ApiError extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail || problem.title);
  }
  get status(): number {
    return this.problem.status;
  }
}

/** Whether the host answered the last request: false while it is stopped or restarts. */
export const reachable = signal(true);
/** Set when the host no longer accepts the credential. */
export const loggedOut = signal<Problem | null>(null);

type Value = string | number | boolean | null | undefined;

/** A path with its segments escaped: ``path`orders/${id}` ``. */
export function path(parts: TemplateStringsArray, ...values: (string | number)[]): string {
  return parts.reduce((text, part, place) => {
    const value = values[place];
    return text + part + (value === undefined ? "" : segment(String(value)));
  }, "");
}

/** A segment of a path. Names that are routes of their own are escaped further, see docs/events.md. */
function segment(text: string): string {
  if (text === "import" || text === "export") {
    return `%${text.charCodeAt(0).toString(16)}${text.slice(1)}`;
  }
  return encodeURIComponent(text);
}

/** An address of the API with the parameters that have a value. */
export function address(at: string, query: Record<string, Value> = {}): string {
  const pairs = Object.entries(query).filter(([, value]) => value != null && value !== "");
  const search = new URLSearchParams(pairs.map(([key, value]) => [key, String(value)])).toString();
  return API + at + (search ? `?${search}` : "");
}

export interface Answer {
  text: string;
  status: number;
}

export interface Options {
  method?: string;
  query?: Record<string, Value>;
  /** The body as JSON text. */
  body?: string;
  /** A body of another type, in the place of JSON. */
  file?: { type: string; bytes: Blob };
  /** Ends the request. */
  signal?: AbortSignal;
  token?: string;
  /** A status that is no error here: the state of a host that is not ready has the status 503. */
  accepts?: number;
}

/** Sends a request and returns the answer's text. */
export async function send(at: string, options: Options = {}): Promise<Answer> {
  const headers: Record<string, string> = { accept: "application/json" };
  if (options.body !== undefined) headers["content-type"] = "application/json";
  if (options.file) headers["content-type"] = options.file.type;
  if (options.token) headers["authorization"] = `Bearer ${options.token}`;
  let response: Response;
  let text: string;
  try {
    response = await fetch(address(at, options.query), {
      method: options.method ?? "GET",
      headers,
      body: options.file?.bytes ?? options.body ?? null,
      signal: options.signal ?? null,
      credentials: "same-origin",
      cache: "no-store",
    });
    text = await response.text();
  } catch {
    if (options.signal?.aborted) {
      const detail = "The request was ended before the host answered.";
      throw new ApiError({ type: "about:blank", title: "Cancelled", status: 0, detail });
    }
    reachable.value = false;
    throw new ApiError({
      type: "about:blank",
      title: "Host unreachable",
      status: 0,
      detail: "The host does not answer. It may be restarting; the console tries again.",
    });
  }
  reachable.value = true;
  if (response.ok || response.status === options.accepts) return { text, status: response.status };
  const problem = problemOf(response, text);
  if (response.status === 401 && !options.token) loggedOut.value = problem;
  throw new ApiError(problem);
}

/** The problem document of an answer, or one that says what answered instead. */
export function problemOf(response: Response, text: string): Problem {
  try {
    const problem = JSON.parse(text) as Problem;
    if (typeof problem.title === "string") return { ...problem, status: response.status };
  } catch {
    // Not from the host: a proxy answered.
  }
  const title = response.statusText || `Status ${response.status}`;
  const detail = `${response.url} answered with status ${response.status} and no problem document.`;
  return { type: "about:blank", title, status: response.status, detail };
}

/** Reads a resource. */
export async function get<T>(at: string, options: Options = {}): Promise<T> {
  return JSON.parse((await send(at, options)).text) as T;
}

/** Changes something. `body` is JSON text or a value. */
export async function post<T>(at: string, body: unknown = {}, options: Options = {}): Promise<T> {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  const answer = await send(at, { method: "POST", body: text, ...options });
  return (answer.text === "" ? null : JSON.parse(answer.text)) as T;
}

/** All pages of a list, up to a number of pages. */
export async function pages<T>(
  at: string,
  query: Record<string, Value>,
  pagesMax: number,
): Promise<{ items: T[]; more: boolean }> {
  const items: T[] = [];
  let cursor: number | null | undefined;
  for (let page = 0; page < pagesMax; page += 1) {
    const found = await get<{ items: T[]; next?: number | null }>(at, {
      query: { ...query, cursor },
    });
    items.push(...found.items);
    if (found.next == null) return { items, more: false };
    cursor = found.next;
  }
  return { items, more: true };
}

/** An error as a problem, whatever it is. */
export function asProblem(error: unknown): Problem {
  if (error instanceof ApiError) return error.problem;
  const detail = error instanceof Error ? error.message : String(error);
  return { type: "about:blank", title: "Error in the console", status: 0, detail };
}
