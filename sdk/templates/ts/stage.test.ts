import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Event, Failure, type Context } from './postrider.ts';
import { check, handle } from './stage.ts';

function context(state: Record<string, unknown> = {}, settings: Record<string, number> = {}): Context {
  const fake = {
    get: (key: string) => state[key],
    set: (key: string, value: unknown) => { state[key] = value; },
    setting: (key: string, fallback: number) => settings[key] ?? fallback,
    info: () => {},
  };
  return fake as unknown as Context;
}

function created(payload: unknown): Event {
  const data = new TextEncoder().encode(JSON.stringify(payload));
  const [id, source, subject] = ['event-1', '/test', '1'];
  return new Event({ id, eventType: 'order.created', source, subject, timeMs: 0, contentType: 'application/json', data, attributes: [] });
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
  const failure = (code: string, retryable: boolean) => (thrown: unknown) =>
    thrown instanceof Failure && thrown.code === code && thrown.retryable === retryable;
  assert.throws(() => handle(created(['a', 'list']), context()), failure('bad-order', false));
  assert.throws(() => handle(created({ force_fail: true }), context()), failure('forced', true));
});
