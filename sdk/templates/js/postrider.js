// The Postrider SDK: payloads and state as JSON, failures as exceptions. It has no imports, so stages can be tested in Node.

/** Thrown by a stage that cannot decide. Any other exception is a bug: its stack is logged, then the call traps. */
export class Failure extends Error {
  constructor(code, message, { retryable, retryAfterMs }) {
    super(message);
    Object.assign(this, { code, retryable, retryAfterMs });
  }

  /** A retryable failure. */
  static retry(code, message, retryAfterMs) {
    return new Failure(code, message, { retryable: true, retryAfterMs });
  }

  /** A permanent failure: the event is dead-lettered without a retry. */
  static reject(code, message) {
    return new Failure(code, message, { retryable: false });
  }
}

/** The incoming event: `id`, `type`, `source`, `subject`, `timeMs`, `contentType`, `bytes`, `attributes`. */
export class Event {
  constructor({ eventType, data, timeMs, attributes, ...rest }) {
    Object.assign(this, rest, { type: eventType, bytes: data, timeMs: Number(timeMs), attributes: Object.fromEntries(attributes) });
  }

  /** The payload as a JSON object. Any other payload is rejected with `code`. */
  object(code) {
    const value = fromJson(this.bytes, code, `the payload of ${this.type}`);
    if (value === null || typeof value !== 'object' || Array.isArray(value)) {
      throw Failure.reject(code, `the payload of ${this.type} is not a JSON object`);
    }
    return value;
  }
}

/** The context of a call. */
export class Context {
  #host;

  constructor(host) {
    this.#host = host;
  }

  /** Reads a JSON value of the state; undefined if the key is missing. */
  get(key) {
    const bytes = this.#host.state.get(key);
    return bytes ? fromJson(bytes, 'bad-state', `the state under ${key}`) : undefined;
  }

  set(key, value) {
    this.#host.state.set(key, toJson(value));
  }

  remove(key) {
    this.#host.state.remove(key);
  }

  /** Lists the state keys that start with `prefix` and sort after `after`, in byte order. */
  keys(prefix, after = '', limit = 1000) {
    return this.#host.state.listKeys(prefix, after, limit);
  }

  /** Reads a setting, or returns `fallback`. If `fallback` is a number, the setting must be one too. */
  setting(key, fallback) {
    const text = this.#host.config.get(key) ?? undefined;
    if (text === undefined || typeof fallback !== 'number') return text ?? fallback;
    const number = text.trim() === '' ? NaN : Number(text);
    if (Number.isNaN(number)) throw Failure.reject('bad-setting', `the setting ${key} is not a number: ${text}`);
    return number;
  }

  /** Number of the attempt, starting at 1. */
  get attempt() {
    return this.#host.delivery.attempt();
  }

  /** The same for every attempt of this event. Send it with external effects and derive ids from it. */
  get idempotencyKey() {
    return this.#host.delivery.idempotencyKey();
  }

  /** Start time of the attempt, in milliseconds since 1970-01-01 UTC. */
  get nowMs() {
    return Number(this.#host.delivery.nowMs());
  }

  /** The other imports of the contract. */
  get host() {
    return this.#host;
  }

  debug(message, fields) {
    this.#log('debug', message, fields);
  }

  info(message, fields) {
    this.#log('info', message, fields);
  }

  warn(message, fields) {
    this.#log('warn', message, fields);
  }

  error(message, fields) {
    this.#log('error', message, fields);
  }

  #log(level, message, fields = {}) {
    this.#host.log.log(level, message, Object.entries(fields).map(([name, value]) => [name, String(value)]));
  }
}

/** Implements the contract's `handler` with a stage; `host` has the contract's imports. */
export function handler({ description, handle }, host) {
  return {
    describe: () => ({ attributes: [], ...description }),
    handle(event) {
      try {
        const answer = handle(new Event(event), new Context(host)) ?? [];
        if (typeof answer.then === 'function') throw new TypeError('`handle` must be synchronous: a stage cannot await promises');
        return [answer].flat().map(emitted);
      } catch (thrown) {
        if (thrown instanceof Failure) throw failure(thrown);
        host.log.log('error', [thrown, thrown?.stack].filter(Boolean).join('\n'), []);
        throw thrown;
      }
    },
  };
}

function emitted({ type, data = null, subject, delayMs = 0, attributes = {} }) {
  return { eventType: type, contentType: 'application/json', data: toJson(data), subject, delayMs, attributes: Object.entries(attributes) };
}

function failure({ retryable, code, message, retryAfterMs }) {
  return { retryable, code, message, retryAfterMs };
}

function fromJson(bytes, code, what) {
  try {
    return JSON.parse(decodeUtf8(bytes));
  } catch (error) {
    throw Failure.reject(code, `${what} is not valid JSON: ${error.message}`);
  }
}

function toJson(value) {
  return encodeUtf8(JSON.stringify(value));
}

// The engine has neither TextEncoder nor TextDecoder. ASCII bytes map to characters; other characters use URI escapes.

const BEYOND_ASCII = /[^\x00-\x7f]+/g;

function encodeUtf8(text) {
  const unescape = (part) => part.replace(/%(..)/g, (_, hex) => String.fromCharCode(parseInt(hex, 16)));
  const bytes = text.replace(BEYOND_ASCII, (part) => unescape(encodeURIComponent(part)));
  return Uint8Array.from(bytes, (char) => char.charCodeAt(0));
}

function decodeUtf8(bytes) {
  const escape = (part) => part.replace(/./gs, (char) => `%${char.charCodeAt(0).toString(16)}`);
  const text = Array.from(bytes, (byte) => String.fromCharCode(byte)).join('');
  return text.replace(BEYOND_ASCII, (part) => decodeURIComponent(escape(part)));
}
