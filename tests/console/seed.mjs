// The orders that the tests look at.

import { until } from "./browser.mjs";
import { HOSTILE } from "./api.mjs";

export async function seed(api) {
  for (const id of ["one", "two", "three", "a:b@c~"]) await api.order(id);
  await api.order("cancel-me");
  for (const id of ["replay-me", "edit-me", "discard-me"]) await api.order(id, { force_fail: true });
  await api.order("hostile", { note: HOSTILE, [HOSTILE]: [HOSTILE] });
  await sendHostileEvent(api);
  // More digits than a number of JavaScript keeps.
  await fetch(`${api.base}/orders`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: '{"order_id":"digits","user_id":"ada","items":["Book"],"total":20,"big":12345678901234567890.10,"force_fail":true}',
  });
  const ends = (id) => async () => ["ready", "failed"].includes((await api.get(`/orders/${id}`)).status);
  for (const id of ["one", "two", "three", "replay-me", "edit-me", "discard-me", "digits"]) {
    await until(`the order ${id} to end`, ends(id));
  }
}

/** An event of another program may have any text as its source, its subject and an attribute. */
async function sendHostileEvent(api) {
  const response = await fetch(`${api.base}/events`, {
    method: "POST",
    headers: { "content-type": "application/cloudevents+json" },
    body: JSON.stringify({
      specversion: "1.0",
      id: HOSTILE,
      source: HOSTILE,
      type: "desk.note",
      subject: HOSTILE,
      note: HOSTILE,
      data: { [HOSTILE]: HOSTILE },
    }),
  });
  if (!response.ok) throw new Error(await response.text());
}
