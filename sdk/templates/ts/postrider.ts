// The Postrider SDK: payloads and state as JSON, failures as exceptions. It imports only types, so stages can be tested in Node.

import type { Level } from 'postrider:stage/log@1.0.0';
import type * as contract from 'postrider:stage/types@1.0.0';

/** The contract's imports. */
export interface Host {
  config: typeof import('postrider:stage/config@1.0.0');
  delivery: typeof import('postrider:stage/delivery@1.0.0');
  log: typeof import('postrider:stage/log@1.0.0');
  state: typeof import('postrider:stage/state@1.0.0');
}

export interface Stage {
  description: Description;
  handle(event: Event, cx: Context): Emit | Emit[] | void;
}

/** The description of a stage. Event types in `consumes` may be AMQP topic patterns. */
export type Description = Omit<contract.Description, 'attributes'> & Partial<Pick<contract.Description, 'attributes'>>;

/** An event emitted by a stage. */
export interface Emit {
  /** One of the types in the description's `emits`. */
  type: string;
  data?: unknown;
  /** Defaults to the subject of the incoming event. */
  subject?: string;
  delayMs?: number;
  attributes?: Record<string, string>;
}

export type Fields = Record<string, string | number | boolean>;

/** Thrown by a stage that cannot decide. Any other exception is a bug: its stack is logged, then the call traps. */
export class Failure extends Error {
  readonly code: string;
  readonly retryable: boolean;
  readonly retryAfterMs: number | undefined;

  constructor(code: string, message: string, retryable: boolean, retryAfterMs?: number) {
    super(message);
    this.code = code;
    this.retryable = retryable;
    this.retryAfterMs = retryAfterMs;
  }

  /** A retryable failure. */
  static retry(code: string, message: string, retryAfterMs?: number): Failure {
    return new Failure(code, message, true, retryAfterMs);
  }

  /** A permanent failure: the event is dead-lettered without a retry. */
  static reject(code: string, message: string): Failure {
    return new Failure(code, message, false);
  }
}

/** The incoming event. */
export class Event {
  readonly id: string;
  readonly type: string;
  readonly source: string;
  readonly subject: string;
  readonly timeMs: number;
  readonly contentType: string;
  readonly bytes: Uint8Array;
  readonly attributes: Record<string, string>;

  constructor(event: contract.Event) {
    this.id = event.id;
    this.type = event.eventType;
    this.source = event.source;
    this.subject = event.subject;
    this.timeMs = Number(event.timeMs);
    this.contentType = event.contentType;
    this.bytes = event.data;
    this.attributes = Object.fromEntries(event.attributes);
  }

  /** The payload as a JSON object. Any other payload is rejected with `code`. */
  object<T extends object>(code: string): T {
    const value = fromJson<T>(this.bytes, code, `the payload of ${this.type}`);
    if (value === null || typeof value !== 'object' || Array.isArray(value)) {
      throw Failure.reject(code, `the payload of ${this.type} is not a JSON object`);
    }
    return value;
  }
}

/** The context of a call. */
export class Context {
  /** The contract's imports, for functions without a shorthand here. */
  readonly host: Host;

  constructor(host: Host) {
    this.host = host;
  }

  /** Reads a JSON value of the state. */
  get<T>(key: string): T | undefined {
    const bytes = this.host.state.get(key);
    return bytes ? fromJson<T>(bytes, 'bad-state', `the state under ${key}`) : undefined;
  }

  set(key: string, value: unknown): void {
    this.host.state.set(key, toJson(value));
  }

  remove(key: string): void {
    this.host.state.remove(key);
  }

  /** Lists the state keys that start with `prefix` and sort after `after`, in byte order. */
  keys(prefix: string, after = '', limit = 1000): string[] {
    return this.host.state.listKeys(prefix, after, limit);
  }

  /** Reads a setting, or returns `fallback`. If `fallback` is a number, the setting must be one too. */
  setting(key: string): string | undefined;
  setting(key: string, fallback: string): string;
  setting(key: string, fallback: number): number;
  setting(key: string, fallback?: string | number): string | number | undefined {
    const text = this.host.config.get(key) ?? undefined;
    if (text === undefined || typeof fallback !== 'number') return text ?? fallback;
    const number = text.trim() === '' ? NaN : Number(text);
    if (Number.isNaN(number)) throw Failure.reject('bad-setting', `the setting ${key} is not a number: ${text}`);
    return number;
  }

  /** Number of the attempt, starting at 1. */
  get attempt(): number {
    return this.host.delivery.attempt();
  }

  /** The same for every attempt of this event. Send it with external effects and derive ids from it. */
  get idempotencyKey(): string {
    return this.host.delivery.idempotencyKey();
  }

  /** Start time of the attempt, in milliseconds since 1970-01-01 UTC. */
  get nowMs(): number {
    return Number(this.host.delivery.nowMs());
  }

  debug(message: string, fields?: Fields): void {
    this.log('debug', message, fields);
  }

  info(message: string, fields?: Fields): void {
    this.log('info', message, fields);
  }

  warn(message: string, fields?: Fields): void {
    this.log('warn', message, fields);
  }

  error(message: string, fields?: Fields): void {
    this.log('error', message, fields);
  }

  private log(level: Level, message: string, fields: Fields = {}): void {
    this.host.log.log(level, message, Object.entries(fields).map(([name, value]) => [name, String(value)]));
  }
}

/** Implements the contract's `handler` with a stage. */
export function handler({ description, handle }: Stage, host: Host) {
  return {
    describe: (): contract.Description => ({ attributes: [], ...description }),
    handle(event: contract.Event): contract.Emitted[] {
      try {
        return [handle(new Event(event), new Context(host)) ?? []].flat().map(emitted);
      } catch (thrown) {
        if (thrown instanceof Failure) throw failure(thrown);
        host.log.log('error', [thrown, thrown instanceof Error && thrown.stack].filter(Boolean).join('\n'), []);
        throw thrown;
      }
    },
  };
}

function emitted({ type, data = null, subject, delayMs = 0, attributes = {} }: Emit): contract.Emitted {
  return { eventType: type, contentType: 'application/json', data: toJson(data), subject, delayMs, attributes: Object.entries(attributes) };
}

function failure({ retryable, code, message, retryAfterMs }: Failure): contract.Failure {
  return { retryable, code, message, retryAfterMs };
}

function fromJson<T>(bytes: Uint8Array, code: string, what: string): T {
  try {
    return JSON.parse(decodeUtf8(bytes));
  } catch (error) {
    throw Failure.reject(code, `${what} is not valid JSON: ${error}`);
  }
}

function toJson(value: unknown): Uint8Array {
  return encodeUtf8(JSON.stringify(value));
}

// The engine has neither TextEncoder nor TextDecoder. ASCII bytes map to characters; other characters use URI escapes.

const BEYOND_ASCII = /[^\x00-\x7f]+/g;

function encodeUtf8(text: string): Uint8Array {
  const unescape = (part: string) => part.replace(/%(..)/g, (_, hex) => String.fromCharCode(parseInt(hex, 16)));
  const bytes = text.replace(BEYOND_ASCII, (part) => unescape(encodeURIComponent(part)));
  return Uint8Array.from(bytes, (char) => char.charCodeAt(0));
}

function decodeUtf8(bytes: Uint8Array): string {
  const escape = (part: string) => part.replace(/./gs, (char) => `%${char.charCodeAt(0).toString(16)}`);
  const text = Array.from(bytes, (byte) => String.fromCharCode(byte)).join('');
  return text.replace(BEYOND_ASCII, (part) => decodeURIComponent(escape(part)));
}
