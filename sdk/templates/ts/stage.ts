// {{name}}: checks the total of an order against a limit and counts the orders of its customer.
//
// State: `customer/<user id>` has the number of orders of the customer. Setting: `max_total`.

import { Failure, type Context, type Description, type Emit, type Event } from './postrider.ts';

export interface Order {
  order_id?: string;
  user_id?: string;
  items?: { sku?: string; quantity?: number; unit_price?: number }[];
  total?: number;
  force_fail?: boolean;
}

export interface Verdict {
  units: number;
  total: number;
  ok: boolean;
}

export const description: Description = {
  name: '{{name}}',
  version: '0.1.0',
  summary: 'Checks the total of an order',
  consumes: ['order.created'],
  emits: ['{{name}}.checked'],
};

/** Handles one event. Its state writes and the events it returns are committed atomically. */
export function handle(event: Event, cx: Context): Emit {
  const order = event.object<Order>('bad-order');
  if (order.force_fail === true) throw Failure.retry('forced', 'the order requests a failure (`force_fail`)');

  const key = `customer/${order.user_id ?? 'unknown'}`;
  const customerOrders = (cx.get<number>(key) ?? 0) + 1;
  cx.set(key, customerOrders);

  const verdict = check(order, cx.setting('max_total', 1000));
  cx.info(verdict.ok ? 'accepted' : 'above the limit', { total: verdict.total });
  const data = { order_id: order.order_id ?? event.subject, customer_orders: customerOrders, ...verdict };
  return { type: '{{name}}.checked', data };
}

/** Checks whether an order is within the limit. Pure. */
export function check(order: Order, maxTotal: number): Verdict {
  const items = (order.items ?? []).map(({ quantity = 1, unit_price = 0 }) => ({ quantity, price: quantity * unit_price }));
  const units = items.reduce((sum, { quantity }) => sum + quantity, 0);
  const total = order.total ?? items.reduce((sum, { price }) => sum + price, 0);
  return { units, total, ok: total <= maxTotal };
}
