// What a stage sees of Postrider: payloads and state as JSON, failures as exceptions. It imports nothing, so stages are tested in Node.

/** Thrown by a stage that could not decide. Whatever else it throws is a bug: logged with its stack, then a trap. */
export class Failure extends Error {
  constructor(code, message, { retryable, retryAfterMs }) {
    super(message);
    Object.assign(this, { code, retryable, retryAfterMs });
  }

  /** Try again later. */
  static retry(code, message, retryAfterMs) {
    return new Failure(code, message, { retryable: true, retryAfterMs });
  }

  /** Dead-letter it: a person must look. */
  static reject(code, message) {
    return new Failure(code, message, { retryable: false });
  }
}

/** The event to decide about: `id`, `type`, `source`, `subject`, `timeMs`, `contentType`, `bytes`, `attributes`. */
export class Event {
  constructor({ eventType, data, timeMs, attributes, ...rest }) {
    Object.assign(this, rest, { type: eventType, bytes: data, timeMs: Number(timeMs), attributes: Object.fromEntries(attributes) });
  }

  /** The payload as a JSON object. Any other payload is rejected with `code`. */
  object(code) {
    const value = fromJson(this.bytes, code, `the payload of ${this.type}`);
    if (value === null || typeof value !== 'object' || Array.isArray(value)) {
      throw Failure.reject(code, `the payload of ${this.type} is no JSON object`);
    }
    return value;
  }
}

/** The call in progress. */
export class Context {
  #host;

  constructor(host) {
    this.#host = host;
  }

  /** The JSON value under a state key, undefined when there is none. */
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

  /** State keys with this prefix, after the key `after`, in the order of their bytes. */
  keys(prefix, after = '', limit = 1000) {
    return this.#host.state.listKeys(prefix, after, limit);
  }

  /** The operator's setting, else `fallback`. Where that is a number, the setting must be one too. */
  setting(key, fallback) {
    const text = this.#host.config.get(key) ?? undefined;
    if (text === undefined || typeof fallback !== 'number') return text ?? fallback;
    const number = text.trim() === '' ? NaN : Number(text);
    if (Number.isNaN(number)) throw Failure.reject('bad-setting', `the setting ${key} is no number: ${text}`);
    return number;
  }

  /** 1 on the first try. */
  get attempt() {
    return this.#host.delivery.attempt();
  }

  /** The same on every try of this event: send it with every outside effect, derive ids from it. */
  get idempotencyKey() {
    return this.#host.delivery.idempotencyKey();
  }

  /** When this try began, since 1970-01-01 UTC. */
  get nowMs() {
    return Number(this.#host.delivery.nowMs());
  }

  /** The rest of the contract's imports. */
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

/** A stage as the contract's `handler`; `host` holds the contract's imports. */
export function handler({ description, handle }, host) {
  return {
    describe: () => ({ attributes: [], ...description }),
    handle(event) {
      try {
        const answer = handle(new Event(event), new Context(host)) ?? [];
        if (typeof answer.then === 'function') throw new TypeError('`handle` must answer at once: a stage has no promises to wait for');
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
    throw Failure.reject(code, `${what} is no JSON: ${error.message}`);
  }
}

function toJson(value) {
  return encodeUtf8(JSON.stringify(value));
}

// The engine has neither TextEncoder nor TextDecoder. Bytes pass as characters; what is beyond ASCII goes through an URI's escapes.

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
