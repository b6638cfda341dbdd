"""Connects the stage with the contract: uses the imports and implements the export."""

import traceback
from types import SimpleNamespace

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import config, delivery, log, state, types

import stage
from postrider import Context, Emit, Event, Failure, to_json

HOST = SimpleNamespace(config=config, delivery=delivery, log=log, state=state)


class Handler(exports.Handler):
    def describe(self) -> types.Description:
        description = stage.DESCRIPTION
        return types.Description(
            description.name,
            description.version,
            description.summary,
            description.consumes,
            description.emits,
            list(description.attributes.items()),
        )

    def handle(self, event: types.Event) -> list[types.Emitted]:
        try:
            return [emitted(emit) for emit in stage.handle(received(event), Context(HOST)) or []]
        except Failure as failure:
            raise Err(types.Failure(failure.retryable, failure.code, failure.message, failure.retry_after_ms)) from failure
        except BaseException:
            log.log(log.Level.ERROR, traceback.format_exc(), [])
            raise


def received(event: types.Event) -> Event:
    return Event(
        type=event.event_type,
        subject=event.subject,
        data=event.data,
        id=event.id,
        source=event.source,
        time_ms=event.time_ms,
        content_type=event.content_type,
        attributes=dict(event.attributes),
    )


def emitted(emit: Emit) -> types.Emitted:
    attributes = list(emit.attributes.items())
    return types.Emitted(emit.type, "application/json", to_json(emit.data), emit.subject, emit.delay_ms, attributes)
