// The types of the contract's imports, as the engine maps wit/stage.wit.

declare module 'postrider:stage/delivery@1.0.0' {
  export function stage(): string;
  export function attempt(): number;
  export function idempotencyKey(): string;
  export function nowMs(): number | bigint;
  export function remainingMs(): number;
  export function traceHeaders(): [string, string][];
}

declare module 'postrider:stage/state@1.0.0' {
  export function get(key: string): Uint8Array | null | undefined;
  export function set(key: string, value: Uint8Array): void;
  export function remove(key: string): void;
  export function listKeys(prefix: string, after: string, limit: number): string[];
}

declare module 'postrider:stage/config@1.0.0' {
  export function get(key: string): string | null | undefined;
}

declare module 'postrider:stage/log@1.0.0' {
  export type Level = 'trace' | 'debug' | 'info' | 'warn' | 'error';
  export function log(level: Level, message: string, fields: [string, string][]): void;
}

declare module 'postrider:stage/types@1.0.0' {
  export interface Event {
    id: string;
    eventType: string;
    source: string;
    subject: string;
    timeMs: number | bigint;
    contentType: string;
    data: Uint8Array;
    attributes: [string, string][];
  }

  export interface Emitted {
    eventType: string;
    contentType: string;
    data: Uint8Array;
    subject: string | undefined;
    delayMs: number;
    attributes: [string, string][];
  }

  export interface Failure {
    retryable: boolean;
    code: string;
    message: string;
    retryAfterMs: number | undefined;
  }

  export interface Description {
    name: string;
    version: string;
    summary: string;
    consumes: string[];
    emits: string[];
    attributes: [string, string][];
  }
}
