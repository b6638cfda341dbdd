// Loyalty: a paid order earns points, a refund returns them.
//
// State: `customer/<user id>` has the balance; `order/<id>/points` has the points of an order and whether they were returned. That record
// makes every effect happen once in any order of arrival: a repeated payment earns nothing more, and a payment after its own refund earns
// nothing.
//
// Setting: `points_per_unit`, points per unit of currency.

export const description = {
  name: 'loyalty',
  version: '1.0.0',
  summary: 'Keeps the points of customers',
  consumes: ['payment.authorized', 'payment.refunded'],
  emits: ['loyalty.points-changed'],
};

const TIERS = [
  { name: 'gold', from: 2000 },
  { name: 'silver', from: 500 },
  { name: 'bronze', from: 0 },
];

export function handle(event, cx) {
  const payment = event.object('bad-payment');
  const key = `order/${event.subject}/points`;
  const before = cx.get(key);
  const after = event.type === 'payment.refunded' ? refund(before) : earn(before, payment, cx.setting('points_per_unit', 1));
  if (after === before) return [];
  cx.set(key, after);

  const change = worth(after) - worth(before);
  if (change === 0) return [];
  return { type: 'loyalty.points-changed', data: { order_id: event.subject, ...book(cx, after.customer, change) } };
}

/** The mark of an order that was paid. Pure. */
export function earn(mark, payment, pointsPerUnit) {
  if (mark !== undefined) return mark;
  const customer = payment.user_id ?? null;
  const points = customer === null ? 0 : pointsFor(payment.payment?.amount ?? payment.total ?? 0, pointsPerUnit);
  return { status: 'earned', customer, points };
}

/** The mark of an order whose payment was returned. Pure. */
export function refund(mark) {
  return mark?.status === 'refunded' ? mark : { ...mark, status: 'refunded' };
}

/** What an order contributes to its customer's balance: by its mark, so that a change of the rate does not reach back. Pure. */
export function worth(mark) {
  return mark?.status === 'earned' ? mark.points : 0;
}

/** Whole points. 19.99 * 100 is a little less than 1999, hence the grain of salt. Pure. */
export function pointsFor(amount, pointsPerUnit) {
  return Math.max(0, Math.floor(amount * pointsPerUnit + 1e-6));
}

/** The name of the tier that a balance reaches. Pure. */
export function tier(balance) {
  return TIERS.find(({ from }) => balance >= from).name;
}

function book(cx, customer, change) {
  const key = `customer/${customer}`;
  const old = cx.get(key)?.balance ?? 0;
  const balance = old + change;
  cx.set(key, { balance });
  const [oldTier, newTier] = [tier(old), tier(balance)];
  if (oldTier !== newTier) cx.info('the customer changes tier', { customer, from: oldTier, to: newTier });
  return { user_id: customer, change, old_balance: old, new_balance: balance, old_tier: oldTier, new_tier: newTier };
}
