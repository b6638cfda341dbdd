// What a stage sees of Postrider: payloads and state as JSON, failures as exceptions. It imports only types, so stages are tested in Node.

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

/** What a stage says about itself. Event types in `consumes` may be AMQP topic patterns. */
export type Description = Omit<contract.Description, 'attributes'> & Partial<Pick<contract.Description, 'attributes'>>;

/** An event that a stage wants sent. */
export interface Emit {
  /** One of the types in the description's `emits`. */
  type: string;
  data?: unknown;
  /** Absent: the subject of the incoming event. */
  subject?: string;
  delayMs?: number;
  attributes?: Record<string, string>;
}

export type Fields = Record<string, string | number | boolean>;

/** Thrown by a stage that could not decide. Whatever else it throws is a bug: logged with its stack, then a trap. */
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

  /** Try again later. */
  static retry(code: string, message: string, retryAfterMs?: number): Failure {
    return new Failure(code, message, true, retryAfterMs);
  }

  /** Dead-letter it: a person must look. */
  static reject(code: string, message: string): Failure {
    return new Failure(code, message, false);
  }
}

/** The event to decide about. */
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
      throw Failure.reject(code, `the payload of ${this.type} is no JSON object`);
    }
    return value;
  }
}

/** The call in progress. */
export class Context {
  /** The contract's imports, for what has no shorthand here. */
  readonly host: Host;

  constructor(host: Host) {
    this.host = host;
  }

  /** The JSON value under a state key. */
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

  /** State keys with this prefix, after the key `after`, in the order of their bytes. */
  keys(prefix: string, after = '', limit = 1000): string[] {
    return this.host.state.listKeys(prefix, after, limit);
  }

  /** The operator's setting, else `fallback`. Where that is a number, the setting must be one too. */
  setting(key: string): string | undefined;
  setting(key: string, fallback: string): string;
  setting(key: string, fallback: number): number;
  setting(key: string, fallback?: string | number): string | number | undefined {
    const text = this.host.config.get(key) ?? undefined;
    if (text === undefined || typeof fallback !== 'number') return text ?? fallback;
    const number = text.trim() === '' ? NaN : Number(text);
    if (Number.isNaN(number)) throw Failure.reject('bad-setting', `the setting ${key} is no number: ${text}`);
    return number;
  }

  /** 1 on the first try. */
  get attempt(): number {
    return this.host.delivery.attempt();
  }

  /** The same on every try of this event: send it with every outside effect, derive ids from it. */
  get idempotencyKey(): string {
    return this.host.delivery.idempotencyKey();
  }

  /** When this try began, since 1970-01-01 UTC. */
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

/** A stage as the contract's `handler`. */
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
    throw Failure.reject(code, `${what} is no JSON: ${error}`);
  }
}

function toJson(value: unknown): Uint8Array {
  return encodeUtf8(JSON.stringify(value));
}

// The engine has neither TextEncoder nor TextDecoder. Bytes pass as characters; what is beyond ASCII goes through an URI's escapes.

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
