"""{{name}}: checks the total of an order against a limit and counts the orders of its customer.

State: `customer/<user id>` has the number of orders of the customer. Setting: `max_total`.
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
    """Handles one event. Its state writes and the events it returns are committed atomically."""
    order = event.object("bad-order")
    if order.get("force_fail") is True:
        raise Failure.retry("forced", "the order requests a failure (`force_fail`)")

    key = f"customer/{order.get('user_id', 'unknown')}"
    customer_orders = cx.get(key, 0) + 1
    cx.set(key, customer_orders)

    verdict = check(order, cx.setting("max_total", 1000.0))
    cx.info("accepted" if verdict["ok"] else "above the limit", total=verdict["total"])
    data = {"order_id": order.get("order_id", event.subject), "customer_orders": customer_orders} | verdict
    return [Emit("{{name}}.checked", data)]


def check(order: dict, max_total: float) -> dict:
    """Checks whether an order is within the limit. Pure."""
    items = order.get("items") or []
    units = sum(item.get("quantity", 1) for item in items)
    total = order.get("total")
    if total is None:
        total = sum(item.get("quantity", 1) * item.get("unit_price", 0) for item in items)
    return {"units": units, "total": total, "ok": total <= max_total}
