import json
import unittest
from types import SimpleNamespace

from postrider import Context, Event, Failure
from stage import check, handle


def context(state: dict, settings: dict | None = None) -> SimpleNamespace:
    setting = (settings or {}).get
    return SimpleNamespace(get=state.get, set=state.__setitem__, setting=setting, info=lambda *_, **__: None)


def created(data: object) -> Event:
    return Event(type="order.created", subject="1", data=json.dumps(data).encode())


class StageTest(unittest.TestCase):
    def test_the_total_defaults_to_the_sum_of_the_items(self):
        items = [{"sku": "book", "quantity": 3, "unit_price": 4}, {"sku": "pen"}]
        self.assertEqual(check({"items": items}, 10), {"units": 4, "total": 12, "ok": False})

    def test_counts_the_orders_of_a_customer(self):
        state = {"customer/7": 1}
        [emit] = handle(created({"order_id": "1", "user_id": "7", "total": 20}), context(state))
        self.assertEqual(emit.type, "{{name}}.checked")
        self.assertEqual(emit.data, {"order_id": "1", "customer_orders": 2, "units": 0, "total": 20, "ok": True})
        self.assertEqual(state, {"customer/7": 2})

    def test_what_is_no_order_is_rejected_and_what_is_asked_to_fail_is_tried_again(self):
        for data, code, retryable in [(["a", "list"], "bad-order", False), ({"force_fail": True}, "forced", True)]:
            with self.subTest(code), self.assertRaises(Failure) as caught:
                handle(created(data), context({}))
            self.assertEqual((caught.exception.code, caught.exception.retryable), (code, retryable))

    def test_a_setting_has_the_type_of_its_default(self):
        settings = {"enabled": "false", "limit": "2.5", "currency": "EUR", "odd": "perhaps"}
        cx = Context(SimpleNamespace(config=settings))
        read = [cx.setting("enabled", True), cx.setting("limit", 1.0), cx.setting("currency"), cx.setting("missing", None)]
        self.assertEqual(read, [False, 2.5, "EUR", None])
        with self.assertRaises(Failure):
            cx.setting("odd", False)


if __name__ == "__main__":
    unittest.main()
