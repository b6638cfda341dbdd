"""Classify: gives an extracted document a label, and counts the documents of each label.

State: `document/<id>/label` has the document's label, or that it was withdrawn; `label/<label>` the number of documents. Every effect
happens once in any order of arrival.

Setting: `confidence_min`, below which the label is `other` (default 0.5).
"""

import rules
from postrider import Context, Description, Emit, Event, Failure

DESCRIPTION = Description(
    name="classify",
    version="1.0.0",
    summary="Labels documents by their words",
    consumes=["document.extracted", "document.cancelled"],
    emits=["document.classified", "document.unclassified"],
)

# Stands for the label of a document that was withdrawn.
WITHDRAWN = {"withdrawn": True}


def handle(event: Event, cx: Context) -> list[Emit]:
    match event.type:
        case "document.extracted":
            return label(event, cx)
        case "document.cancelled":
            return withdraw(event, cx)
    raise Failure.reject("unhandled-event", f"the stage does not handle `{event.type}`: change its `consumes`")


def label(event: Event, cx: Context) -> list[Emit]:
    key = f"document/{event.subject}/label"
    if cx.get(key) is not None:
        return []
    document = event.object("bad-data")
    text = document.get("text")
    if not isinstance(text, str):
        raise Failure.reject("bad-data", "`text` must be a string")
    result = rules.classify(text)
    chosen = result.label if result.confidence >= cx.setting("confidence_min", 0.5) else rules.OTHER
    cx.set(key, {"label": chosen})
    count(cx, chosen, 1)
    return [Emit("document.classified", {**document, "label": chosen, "confidence": result.confidence})]


def withdraw(event: Event, cx: Context) -> list[Emit]:
    key = f"document/{event.subject}/label"
    known = cx.get(key)
    cx.set(key, WITHDRAWN)
    if known is None or known == WITHDRAWN:
        return []
    count(cx, known["label"], -1)
    return [Emit("document.unclassified", {"document_id": event.subject})]


def count(cx: Context, name: str, change: int) -> None:
    key = f"label/{name}"
    cx.set(key, cx.get(key, 0) + change)
