import assert from 'node:assert/strict';
import { test } from 'node:test';

import { handle, pointsFor, tier } from './stage.js';
import { Event } from './postrider.js';

const paid = (order, amount, user = '7') => ['payment.authorized', order, { order_id: order, user_id: user, payment: { amount } }];
const refunded = (order) => ['payment.refunded', order, { order_id: order, amount: 1 }];

/** The state and the balances sent after a course of events. */
function course(events, settings = {}) {
  const state = {};
  const cx = {
    get: (key) => state[key],
    set: (key, value) => { state[key] = value; },
    setting: (key, fallback) => settings[key] ?? fallback,
    info: () => {},
  };
  const balances = events.flatMap(([eventType, subject, data]) => {
    const bytes = new TextEncoder().encode(JSON.stringify(data));
    return handle(new Event({ eventType, subject, data: bytes, timeMs: 0n, attributes: [] }), cx);
  });
  return { state, balances: balances.map(({ data }) => data.new_balance) };
}

test('points are earned once and returned once', () => {
  const { state, balances } = course([paid('1', 30), paid('1', 30), paid('2', 5), refunded('1'), refunded('1'), paid('1', 30)]);
  assert.deepEqual(balances, [30, 35, 5]);
  assert.deepEqual(state['customer/7'], { balance: 5 });
});

test('a payment after its refund earns nothing', () => {
  const { state, balances } = course([refunded('1'), paid('1', 30)]);
  assert.deepEqual(balances, []);
  assert.deepEqual(state, { 'order/1/points': { status: 'refunded' } });
});

test('the balance does not depend on the order of arrival', () => {
  const events = [paid('1', 30), refunded('1'), paid('2', 12)];
  for (const [a, b, c] of [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]) {
    assert.deepEqual(course([events[a], events[b], events[c]]).state['customer/7'], { balance: 12 });
  }
});

test('a refund returns the points earned at the original rate', () => {
  const settings = { points_per_unit: 10 };
  const { state } = course([paid('1', 3)], settings);
  assert.deepEqual(state['order/1/points'], { status: 'earned', customer: '7', points: 30 });
  assert.deepEqual(course([paid('1', 3), refunded('1')], settings).balances, [30, 0]);
});

test('an order without a customer earns nothing', () => {
  assert.deepEqual(course([paid('1', 30, null)]).balances, []);
});

test('points are whole numbers and tiers start at their threshold', () => {
  assert.equal(pointsFor(19.99, 100), 1999);
  assert.equal(pointsFor(19.99, 1), 19);
  assert.deepEqual([0, 499, 500, 2000].map(tier), ['bronze', 'bronze', 'silver', 'gold']);
});
