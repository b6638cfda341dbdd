import json
import unittest
from types import SimpleNamespace

import rules
from postrider import Event
from rules import History, Order
from stage import handle

MINUTE_MS = 60_000


def names(order: Order, history: History) -> list[str]:
    return [finding.rule for finding in rules.examine(order, history)]


class RulesTest(unittest.TestCase):
    def test_a_total_is_judged_only_by_enough_orders_of_the_same_customer(self):
        self.assertEqual(names(Order(total=500), History(orders=2, mean_total=20)), [])
        self.assertEqual(names(Order(total=50), History(orders=3, mean_total=20)), [])
        self.assertEqual(names(Order(total=60), History(orders=3, mean_total=20)), ["unusual-total"])
        [finding] = rules.examine(Order(total=200), History(orders=3, mean_total=20))
        self.assertEqual((finding.points, finding.reason), (50, "200.00 is 10.0 times the mean 20.00 of 3 orders"))

    def test_units(self):
        points = [sum(finding.points for finding in rules.examine(Order(units=units), History())) for units in (19, 20, 100)]
        self.assertEqual(points, [0, 15, 30])

    def test_orders_are_close_by_the_time_they_were_placed(self):
        history = History(times_ms=[0, 5 * MINUTE_MS, 60 * MINUTE_MS])
        self.assertEqual(names(Order(time_ms=8 * MINUTE_MS), history), ["quick-succession"])
        self.assertEqual(names(Order(time_ms=12 * MINUTE_MS), history), [])

    def test_a_third_address_is_noticed_a_known_one_is_not(self):
        here, there, elsewhere = map(rules.digest, ["Main Street 1", "High Street 2", {"street": "Broadway", "number": 3}])
        history = History(addresses=[here, there])
        self.assertEqual(names(Order(address=elsewhere), history), ["several-addresses"])
        self.assertEqual(names(Order(address=rules.digest("main street  1")), history), [])

    def test_the_mean_runs_and_skips_what_was_blocked(self):
        history = History()
        for total, usual in [(10, True), (20, True), (9000, False), (30, True)]:
            history = rules.remember(Order(total=total, time_ms=total), history, usual)
        self.assertEqual((history.orders, history.mean_total, history.times_ms), (3, 20.0, [10, 20, 30, 9000]))


class StageTest(unittest.TestCase):
    def score(self, state: dict, payload: dict, settings: dict | None = None) -> dict:
        cx = SimpleNamespace(get=state.get, set=state.__setitem__, setting=(settings or {}).get, warn=lambda *_, **__: None)
        [emit] = handle(Event(type="order.created", subject="1", data=json.dumps(payload).encode()), cx)
        return emit.data

    def test_verdicts_follow_the_thresholds(self):
        payload = {"order_id": "1", "items": [{"sku": "book", "quantity": 100}]}
        thresholds = [(40, 70), (30, 70), (10, 30)]
        verdicts = [self.score({}, payload, {"review_from": review, "block_from": block})["verdict"] for review, block in thresholds]
        self.assertEqual(verdicts, ["pass", "review", "block"])

    def test_each_order_is_remembered(self):
        state: dict = {}
        for _ in range(3):
            self.score(state, {"user_id": "7", "total": 20})
        self.assertEqual(state["customer/7"]["orders"], 3)
        said = self.score(state, {"user_id": "7", "total": 400})
        self.assertEqual((said["score"], said["verdict"]), (95, "block"))
        self.assertEqual([reason["rule"] for reason in said["reasons"]], ["unusual-total", "quick-succession"])

    def test_an_order_without_a_customer_leaves_nothing_behind(self):
        state: dict = {}
        self.assertEqual(self.score(state, {"total": 20})["verdict"], "pass")
        self.assertEqual(state, {})


if __name__ == "__main__":
    unittest.main()
