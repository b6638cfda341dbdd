"""What kind of document a text is, by the words in it. Pure."""

import re
from dataclasses import dataclass

# The words of each label. A text that has none of them is `other`.
LABELS = {
    "invoice": {"invoice", "amount", "due", "payment", "vat", "total", "iban"},
    "contract": {"contract", "agreement", "party", "parties", "term", "termination", "hereby", "signature"},
    "report": {"report", "summary", "results", "quarter", "annual", "findings", "figures"},
}
OTHER = "other"


@dataclass(frozen=True)
class Classification:
    """A label, and the share of the matching words that speak for it (0 to 1)."""

    label: str
    confidence: float


def classify(text: str) -> Classification:
    """The label with the most matching words; of several, the first in `LABELS`."""
    words = re.findall(r"\w+", text.casefold())
    counts = {label: sum(word in keywords for word in words) for label, keywords in LABELS.items()}
    matching = sum(counts.values())
    if matching == 0:
        return Classification(OTHER, 0.0)
    label = max(counts, key=counts.__getitem__)
    return Classification(label, round(counts[label] / matching, 3))
