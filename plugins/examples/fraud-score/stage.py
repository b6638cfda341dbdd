"""Fraud score: scores how unusual an order is for its customer, from 0 to 100, with reasons.

State: `customer/<user id>`, the customer's history; addresses only as digests. Settings: `review_from` and `block_from`, the scores from
which the verdict is `review` and `block` instead of `pass`.
"""

from dataclasses import asdict

import rules
from postrider import Context, Description, Emit, Event
from rules import History, Order

DESCRIPTION = Description(
    name="fraud-score",
    version="1.0.0",
    summary="Scores how unusual an order is for its customer",
    consumes=["order.created"],
    emits=["fraud.scored"],
)


def handle(event: Event, cx: Context) -> list[Emit]:
    payload = event.object("bad-order")
    order = Order.parse(payload, event.time_ms)
    review_from, block_from = cx.setting("review_from", 40), cx.setting("block_from", 70)

    customer = payload.get("user_id")
    key = f"customer/{customer}"
    history = History(**cx.get(key, {})) if customer is not None else History()
    findings = rules.examine(order, history)
    score = min(100, sum(finding.points for finding in findings))
    verdict = "block" if score >= block_from else "review" if score >= review_from else "pass"
    if customer is not None:
        cx.set(key, asdict(rules.remember(order, history, usual=verdict != "block")))

    if verdict != "pass":
        cx.warn("the order is unusual", score=score, verdict=verdict)
    reasons = [asdict(finding) for finding in findings]
    data = {"order_id": payload.get("order_id", event.subject), "score": score, "verdict": verdict, "reasons": reasons}
    return [Emit("fraud.scored", data)]
