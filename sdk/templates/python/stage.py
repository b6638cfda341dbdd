"""{{name}}: checks an order's total against a limit and counts the orders of its customer.

State: `customer/<user id>`, how many orders the customer has placed. Setting: `max_total`.
"""

from postrider import Context, Description, Emit, Event, Failure

DESCRIPTION = Description(
    name="{{name}}",
    version="0.1.0",
    summary="Checks the total of an order",
    consumes=["order.created"],
    emits=["{{name}}.checked"],
)


def handle(event: Event, cx: Context) -> list[Emit]:
    """Decides about one event. What it returns is sent and what it wrote is kept, both or neither."""
    order = event.object("bad-order")
    if order.get("force_fail") is True:
        raise Failure.retry("forced", "the order asks for a failure (`force_fail`)")

    key = f"customer/{order.get('user_id', 'unknown')}"
    customer_orders = cx.get(key, 0) + 1
    cx.set(key, customer_orders)

    verdict = check(order, cx.setting("max_total", 1000.0))
    cx.info("the order is fine" if verdict["ok"] else "the order is refused", total=verdict["total"])
    data = {"order_id": order.get("order_id", event.subject), "customer_orders": customer_orders} | verdict
    return [Emit("{{name}}.checked", data)]


def check(order: dict, max_total: float) -> dict:
    """Whether an order is within the limit. Pure."""
    items = order.get("items") or []
    units = sum(item.get("quantity", 1) for item in items)
    total = order.get("total")
    if total is None:
        total = sum(item.get("quantity", 1) * item.get("unit_price", 0) for item in items)
    return {"units": units, "total": total, "ok": total <= max_total}
