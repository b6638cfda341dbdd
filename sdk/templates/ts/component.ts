// The stage in its sandbox: stage.ts between the contract's imports and its export.

import * as config from 'postrider:stage/config@1.0.0';
import * as delivery from 'postrider:stage/delivery@1.0.0';
import * as log from 'postrider:stage/log@1.0.0';
import * as state from 'postrider:stage/state@1.0.0';

import * as postrider from './postrider.ts';
import * as stage from './stage.ts';

export const handler = postrider.handler(stage, { config, delivery, log, state });

// Every try of an event must see the same time. Random numbers would be the same in every instance.
globalThis.Date = class extends Date {
  constructor(...parts: unknown[]) {
    super(...((parts.length > 0 ? parts : [Number(delivery.nowMs())]) as [number]));
  }

  static override now(): number {
    return Number(delivery.nowMs());
  }
} as DateConstructor;
Math.random = () => {
  throw new Error('there are no random numbers here: derive ids from cx.idempotencyKey');
};
