import assert from 'node:assert/strict';
import { test } from 'node:test';

import { check, handle } from './stage.js';
import { Event, Failure } from './postrider.js';

function context(state = {}, settings = {}) {
  return {
    get: (key) => state[key],
    set: (key, value) => { state[key] = value; },
    setting: (key, fallback) => settings[key] ?? fallback,
    info: () => {},
  };
}

function created(payload) {
  const data = new TextEncoder().encode(JSON.stringify(payload));
  return new Event({ eventType: 'order.created', subject: '1', timeMs: 0, data, attributes: [] });
}

test('the total defaults to the sum of the items', () => {
  const items = [{ sku: 'book', quantity: 3, unit_price: 4 }, { sku: 'pen' }];
  assert.deepEqual(check({ items }, 10), { units: 4, total: 12, ok: false });
});

test('counts the orders of a customer', () => {
  const state = { 'customer/7': 1 };
  const { type, data } = handle(created({ order_id: '1', user_id: '7', total: 20 }), context(state));
  assert.equal(type, '{{name}}.checked');
  assert.deepEqual(data, { order_id: '1', customer_orders: 2, units: 0, total: 20, ok: true });
  assert.deepEqual(state, { 'customer/7': 2 });
});

test('invalid orders are rejected, forced failures are retryable', () => {
  const failure = (code, retryable) => (thrown) => thrown instanceof Failure && thrown.code === code && thrown.retryable === retryable;
  assert.throws(() => handle(created(['a', 'list']), context()), failure('bad-order', false));
  assert.throws(() => handle(created({ force_fail: true }), context()), failure('forced', true));
});
