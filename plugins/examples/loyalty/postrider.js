// The Postrider SDK: payloads and state as JSON, failures as exceptions. It has no imports, so stages can be tested in Node.

/** Thrown by a stage that cannot decide. Any other exception is a bug: its stack is logged, then the call traps. */
export class Failure extends Error {
  constructor(code, message, { retryable, retryAfterMs }) {
    text(code, 'the code of a `Failure`');
    text(message, 'the message of a `Failure`');
    if (retryAfterMs !== undefined) milliseconds(retryAfterMs, '`retryAfterMs` of a `Failure`');
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
    text(key, 'the key of `get`');
    const bytes = this.#host.state.get(key);
    return bytes ? fromJson(bytes, 'bad-state', `the state under ${key}`) : undefined;
  }

  set(key, value) {
    text(key, 'the key of `set`');
    this.#host.state.set(key, toJson(value, `the value of \`${key}\``));
  }

  remove(key) {
    text(key, 'the key of `remove`');
    this.#host.state.remove(key);
  }

  /** Lists the state keys that start with `prefix` and sort after `after`, in byte order. */
  keys(prefix, after = '', limit = 1000) {
    text(prefix, 'the prefix of `keys`');
    text(after, '`after` of `keys`');
    if (!Number.isInteger(limit) || limit < 0) throw wrong(limit, '`limit` of `keys`', 'a whole number, 0 or more');
    return this.#host.state.listKeys(prefix, after, Math.min(limit, U32_MAX));
  }

  /** Reads a setting, or returns `fallback`. If `fallback` is a number or a boolean, the setting must be one too. */
  setting(key, fallback) {
    text(key, 'the key of `setting`');
    const value = this.#host.config.get(key) ?? undefined;
    if (value === undefined || !['number', 'boolean'].includes(typeof fallback)) return value ?? fallback;
    if (typeof fallback === 'boolean') {
      if (value !== 'true' && value !== 'false') throw Failure.reject('bad-setting', `the setting ${key} is neither true nor false: ${value}`);
      return value === 'true';
    }
    const number = value.trim() === '' ? NaN : Number(value);
    if (Number.isNaN(number)) throw Failure.reject('bad-setting', `the setting ${key} is not a number: ${value}`);
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
    this.#host.log.log(level, typeof message === 'string' ? message : shown(message), Object.entries(fields).map(([name, value]) => [name, String(value)]));
  }
}

/** Implements the contract's `handler` with a stage; `host` has the contract's imports. */
export function handler({ description, handle }, host) {
  const logged = (work) => {
    try {
      return work();
    } catch (thrown) {
      if (thrown instanceof Failure) throw failure(thrown);
      host.log.log('error', [thrown, thrown?.stack].filter(Boolean).join('\n'), []);
      throw thrown;
    }
  };
  return {
    describe: () => logged(() => {
      if (typeof handle !== 'function') throw wrong(handle, 'the export `handle`', 'a function');
      return described(description);
    }),
    handle: (event) => logged(() => {
      const answer = handle(new Event(event), new Context(host)) ?? [];
      if (typeof answer.then === 'function') throw new TypeError('`handle` must be synchronous: a stage cannot await promises');
      return (Array.isArray(answer) ? answer : [answer]).map(emitted);
    }),
  };
}

// Wrong shapes would trap in the engine without a word: they are reported here, by the name of the field.

const U32_MAX = 4294967295;
const EMIT_FIELDS = ['type', 'data', 'subject', 'delayMs', 'attributes'];
const DESCRIPTION_FIELDS = ['name', 'version', 'summary', 'consumes', 'emits', 'attributes'];

function emitted(emit, position) {
  const place = `event ${position + 1} that \`handle\` returned`;
  record(emit, place, EMIT_FIELDS, '{ type, data }');
  const { type, data = null, subject, delayMs = 0, attributes = {} } = emit;
  text(type, `\`type\` of ${place}`);
  if (subject !== undefined && subject !== null) text(subject, `\`subject\` of ${place}`);
  milliseconds(delayMs, `\`delayMs\` of ${place}`);
  record(attributes, `\`attributes\` of ${place}`, null, '{ name: value }');
  for (const [name, value] of Object.entries(attributes)) text(value, `the attribute \`${name}\` of ${place}`);
  const bytes = toJson(data, `\`data\` of ${place}`);
  return { eventType: type, contentType: 'application/json', data: bytes, subject: subject ?? undefined, delayMs, attributes: Object.entries(attributes) };
}

function failure({ retryable, code, message, retryAfterMs }) {
  return { retryable, code, message, retryAfterMs };
}

function described(description) {
  record(description, '`description`', DESCRIPTION_FIELDS, '{ name, version, summary, consumes, emits }');
  const { name, version, summary, consumes, emits, attributes = [] } = description;
  for (const [field, value] of Object.entries({ name, version, summary })) text(value, `\`${field}\` of \`description\``);
  for (const [field, values] of Object.entries({ consumes, emits })) {
    if (!Array.isArray(values)) throw wrong(values, `\`${field}\` of \`description\``, 'an array of event types');
    values.forEach((value) => text(value, `an entry of \`${field}\` of \`description\``));
  }
  const pairs = Array.isArray(attributes) ? attributes : Object.entries(attributes);
  pairs.flat().forEach((value) => text(value, 'an entry of `attributes` of `description`'));
  return { name, version, summary, consumes, emits, attributes: pairs };
}

/** Checks that `value` is an object with no other fields than `known`. */
function record(value, place, known, example) {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) throw wrong(value, place, `an object such as ${example}`);
  const unknown = known && Object.keys(value).find((name) => !known.includes(name));
  if (unknown) throw new TypeError(`${place} has an unknown field \`${unknown}\`; the fields are ${known.join(', ')}`);
}

function text(value, place) {
  if (typeof value !== 'string') throw wrong(value, place, 'a string');
}

function milliseconds(value, place) {
  if (!Number.isInteger(value) || value < 0 || value > U32_MAX) throw wrong(value, place, `a whole number of milliseconds from 0 to ${U32_MAX}`);
}

function wrong(value, place, expected) {
  return new TypeError(`${place} must be ${expected}, not ${shown(value)}`);
}

/** A value as text for people. */
function shown(value) {
  if (typeof value === 'string') return `'${value}'`;
  if (value instanceof Error) return value.stack?.includes(value.message) ? value.stack : [value, value.stack].filter(Boolean).join('\n');
  try {
    return JSON.stringify(value) ?? String(value);
  } catch {
    return String(value);
  }
}

/** A `console` that writes to the host's log. */
export function consoleOf(log) {
  const line = (parts) => parts.map((part) => (typeof part === 'string' ? part : shown(part))).join(' ');
  const at = (level) => (...parts) => log.log(level, line(parts), []);
  const assert = (holds, ...parts) => holds || log.log('error', line(['assertion failed:', ...parts]), []);
  return { trace: at('trace'), debug: at('debug'), log: at('info'), info: at('info'), dir: at('info'), warn: at('warn'), error: at('error'), assert };
}

function fromJson(bytes, code, what) {
  try {
    return parse(decodeUtf8(bytes));
  } catch (error) {
    throw Failure.reject(code, `${what} is not valid JSON: ${error.message}`);
  }
}

function toJson(value, place) {
  const json = JSON.stringify(value, (name, inner) => {
    if (typeof inner === 'number' && !Number.isFinite(inner)) throw new TypeError(`${place} contains ${inner}${name && ` under \`${name}\``}, which is not JSON`);
    return inner instanceof ExactNumber ? MARK + inner.text : inner;
  });
  if (json === undefined) throw wrong(value, place, 'a JSON value');
  return encodeUtf8(json.replace(MARKED, '$1'));
}

// JSON numbers keep every digit: one that a double cannot hold becomes an `ExactNumber`.

const NUMBER = '-?\\d+(?:\\.\\d+)?(?:[eE][+-]?\\d+)?';
const TOKENS = new RegExp(`"(?:[^"\\\\]|\\\\.)*"|${NUMBER}`, 'g');
/** What every number with too many digits contains. */
const SUSPECT = /[\d.]{16,}|\d[eE][+-]?\d/;
const PARTS = /^(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/;
/** Marks the text of an exact number while it is a JSON string. */
const MARK = '\u0000number:';
const MARKED = new RegExp(`"\\\\u0000number:(${NUMBER})"(?!:)`, 'g');

/** A number with more digits than a double holds. It counts as the nearest double, and is written as it was read. */
export class ExactNumber {
  text;

  constructor(text) {
    this.text = text;
  }

  valueOf() {
    return Number(this.text);
  }

  toString() {
    return this.text;
  }
}

/** The significant digits and the power of ten: the same for every notation of a number. */
function decimal(text) {
  const [, sign = '', whole = '', fraction = '', power = '0'] = PARTS.exec(text) ?? [];
  const digits = (whole + fraction).replace(/^0+/, '');
  const kept = digits.replace(/0+$/, '');
  return kept === '' ? '0' : `${sign}${kept}e${Number(power) - fraction.length + digits.length - kept.length}`;
}

function parse(json) {
  if (!SUSPECT.test(json)) return JSON.parse(json);
  const isExact = (number) => decimal(String(Number(number))) === decimal(number);
  const marked = json.replace(TOKENS, (token) => (token.startsWith('"') || isExact(token) ? token : JSON.stringify({ [MARK]: token })));
  return JSON.parse(marked, (_, value) => (typeof value?.[MARK] === 'string' && PARTS.test(value[MARK]) ? new ExactNumber(value[MARK]) : value));
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
