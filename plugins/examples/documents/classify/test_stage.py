import json
import unittest
from types import SimpleNamespace

import rules
from postrider import Event, Failure
from rules import Classification
from stage import handle


class RulesTest(unittest.TestCase):
    def test_the_label_with_most_matching_words_wins(self):
        for text, expected in [
            ("Invoice: the total amount is due", Classification("invoice", 1.0)),
            ("This AGREEMENT between the parties; a report", Classification("contract", 0.667)),
            ("An annual report of results", Classification("report", 1.0)),
            ("Dear diary", Classification("other", 0.0)),
            ("", Classification("other", 0.0)),
        ]:
            self.assertEqual(rules.classify(text), expected)


class StageTest(unittest.TestCase):
    def setUp(self):
        self.state: dict = {}
        self.settings: dict = {}

    def run_stage(self, event_type: str, payload: dict) -> list:
        setting = lambda key, default: self.settings.get(key, default)
        cx = SimpleNamespace(get=self.state.get, set=self.state.__setitem__, setting=setting)
        return handle(Event(type=event_type, subject="d-1", data=json.dumps(payload).encode()), cx)

    def test_a_document_is_labelled_and_counted_once(self):
        document = {"document_id": "d-1", "owner": "42", "text": "invoice, amount due"}
        [emit] = self.run_stage("document.extracted", document)
        self.assertEqual((emit.type, emit.data["label"], emit.data["owner"]), ("document.classified", "invoice", "42"))
        self.assertEqual(self.run_stage("document.extracted", document), [])
        self.assertEqual(self.state["label/invoice"], 1)

    def test_a_withdrawn_document_no_longer_counts(self):
        self.run_stage("document.extracted", {"text": "annual report"})
        [emit] = self.run_stage("document.cancelled", {})
        self.assertEqual(emit.type, "document.unclassified")
        self.assertEqual(self.run_stage("document.cancelled", {}), [])
        self.assertEqual(self.state["label/report"], 0)

    def test_a_document_that_is_withdrawn_first_is_never_labelled(self):
        self.assertEqual(self.run_stage("document.cancelled", {}), [])
        self.assertEqual(self.run_stage("document.extracted", {"text": "annual report"}), [])
        self.assertNotIn("label/report", self.state)

    def test_a_label_below_the_least_confidence_is_other(self):
        self.settings["confidence_min"] = 0.9
        [emit] = self.run_stage("document.extracted", {"text": "invoice report"})
        self.assertEqual((emit.data["label"], emit.data["confidence"]), ("other", 0.5))

    def test_unknown_types_and_payloads_are_permanent_failures(self):
        for event_type, payload, code in [("document.read", {}, "unhandled-event"), ("document.extracted", {"text": 7}, "bad-data")]:
            with self.assertRaises(Failure) as raised:
                self.run_stage(event_type, payload)
            self.assertEqual((raised.exception.code, raised.exception.retryable), (code, False))


if __name__ == "__main__":
    unittest.main()
