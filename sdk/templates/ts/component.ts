// Connects the stage with the contract: stage.ts uses the imports and implements the export.

import * as config from 'postrider:stage/config@1.0.0';
import * as delivery from 'postrider:stage/delivery@1.0.0';
import * as log from 'postrider:stage/log@1.0.0';
import * as state from 'postrider:stage/state@1.0.0';

import * as postrider from './postrider.ts';
import * as stage from './stage.ts';

export const handler = postrider.handler(stage, { config, delivery, log, state });

// The clock is constant within an attempt. Random numbers are disabled, because every instance would produce the same ones.
globalThis.Date = class extends Date {
  constructor(...parts: unknown[]) {
    super(...((parts.length > 0 ? parts : [Number(delivery.nowMs())]) as [number]));
  }

  static override now(): number {
    return Number(delivery.nowMs());
  }
} as DateConstructor;
Math.random = () => {
  throw new Error('random numbers are not available: derive ids from cx.idempotencyKey');
};
// The engine has none.
globalThis.console = postrider.consoleOf(log) as Console;
