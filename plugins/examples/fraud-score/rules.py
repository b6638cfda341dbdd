"""The scoring rules; each finding has a reason in words. Pure."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self

# The mean of fewer orders is not significant.
ORDERS_MIN = 3
QUICK_MS = 10 * 60 * 1000
ADDRESSES_USUAL = 2
# Maximum number of entries of each kind in the history.
KEPT = 20


@dataclass(frozen=True)
class Finding:
    rule: str
    points: int
    reason: str


@dataclass(frozen=True)
class Order:
    total: float = 0.0
    units: int = 0
    address: str | None = None
    time_ms: int = 0

    @classmethod
    def parse(cls, payload: dict, time_ms: int) -> Self:
        lines = [item for item in payload.get("items") or [] if isinstance(item, dict)]
        units = sum(line.get("quantity", 1) for line in lines)
        total = payload.get("total")
        if total is None:
            total = sum(line.get("quantity", 1) * line.get("unit_price", 0) for line in lines)
        return cls(total, units, digest(payload.get("delivery_address")), time_ms)


@dataclass(frozen=True)
class History:
    """The history of a customer. The mean is over `orders` orders, without the blocked ones."""

    orders: int = 0
    mean_total: float = 0.0
    times_ms: list[int] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)


def examine(order: Order, history: History) -> list[Finding]:
    return [finding for rule in (unusual_total, many_units, quick_succession, several_addresses) for finding in rule(order, history)]


def unusual_total(order: Order, history: History) -> Iterator[Finding]:
    if history.orders < ORDERS_MIN or history.mean_total <= 0:
        return
    times = order.total / history.mean_total
    if times >= 3:
        reason = f"{order.total:.2f} is {times:.1f} times the mean {history.mean_total:.2f} of {history.orders} orders"
        yield Finding("unusual-total", 50 if times >= 10 else 25, reason)


def many_units(order: Order, _: History) -> Iterator[Finding]:
    if order.units >= 20:
        yield Finding("many-units", 30 if order.units >= 100 else 15, f"{order.units} units in one order")


def quick_succession(order: Order, history: History) -> Iterator[Finding]:
    """Compares the times at which the orders were placed, not when they arrived."""
    close = sum(abs(order.time_ms - time_ms) <= QUICK_MS for time_ms in history.times_ms)
    if close >= 2:
        yield Finding("quick-succession", min(15 * close, 45), f"{close} other orders within {QUICK_MS // 60_000} minutes")


def several_addresses(order: Order, history: History) -> Iterator[Finding]:
    if order.address is None or order.address in history.addresses:
        return
    known = len(history.addresses)
    if known >= ADDRESSES_USUAL:
        yield Finding("several-addresses", min(15 * (known - ADDRESSES_USUAL + 1), 45), f"a new delivery address after {known} others")


def remember(order: Order, history: History, usual: bool) -> History:
    """Adds an order to the history. An unusual order does not change the mean."""
    times_ms = sorted([*history.times_ms, order.time_ms])[-KEPT:]
    addresses = history.addresses
    if order.address is not None and order.address not in addresses:
        addresses = [*addresses, order.address][-KEPT:]
    if not usual:
        return replace(history, times_ms=times_ms, addresses=addresses)
    orders = history.orders + 1
    mean_total = history.mean_total + (order.total - history.mean_total) / orders
    return History(orders, mean_total, times_ms, addresses)


def digest(address: Any) -> str | None:
    """Digest of an address, given as text or as an object, ignoring spacing and case. Addresses themselves are not stored."""
    if not address:
        return None
    text = "".join(json.dumps(address, sort_keys=True).casefold().split())
    return hashlib.sha256(text.encode()).hexdigest()[:16]
