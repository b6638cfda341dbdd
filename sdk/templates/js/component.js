// Connects the stage with the contract: stage.js uses the imports and implements the export.

import * as config from 'postrider:stage/config@1.0.0';
import * as delivery from 'postrider:stage/delivery@1.0.0';
import * as log from 'postrider:stage/log@1.0.0';
import * as state from 'postrider:stage/state@1.0.0';

import * as postrider from './postrider.js';
import * as stage from './stage.js';

export const handler = postrider.handler(stage, { config, delivery, log, state });

// The clock is constant within an attempt. Random numbers are disabled, because every instance would produce the same ones.
globalThis.Date = class extends Date {
  constructor(...parts) {
    super(...(parts.length > 0 ? parts : [Number(delivery.nowMs())]));
  }

  static now() {
    return Number(delivery.nowMs());
  }
};
Math.random = () => {
  throw new Error('random numbers are not available: derive ids from cx.idempotencyKey');
};
// The engine has none.
globalThis.console = postrider.consoleOf(log);
