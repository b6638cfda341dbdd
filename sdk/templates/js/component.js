// The stage in its sandbox: stage.js between the contract's imports and its export.

import * as config from 'postrider:stage/config@1.0.0';
import * as delivery from 'postrider:stage/delivery@1.0.0';
import * as log from 'postrider:stage/log@1.0.0';
import * as state from 'postrider:stage/state@1.0.0';

import * as postrider from './postrider.js';
import * as stage from './stage.js';

export const handler = postrider.handler(stage, { config, delivery, log, state });

// Every try of an event must see the same time. Random numbers would be the same in every instance.
globalThis.Date = class extends Date {
  constructor(...parts) {
    super(...(parts.length > 0 ? parts : [Number(delivery.nowMs())]));
  }

  static now() {
    return Number(delivery.nowMs());
  }
};
Math.random = () => {
  throw new Error('there are no random numbers here: derive ids from cx.idempotencyKey');
};
