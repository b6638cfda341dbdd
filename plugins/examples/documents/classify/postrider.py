"""The Postrider SDK: payloads and state as JSON, failures as exceptions.

It imports nothing of the sandbox, so stages are tested in plain Python.
"""

import json
import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Self

U32_MAX = 4294967295
# Marks the text of an exact number while it is a JSON string.
MARK = "\0number:"
MARKED = re.compile(r'"\\u0000number:(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"(?!:)')
BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class Failure(Exception):
    """Raised by a stage that cannot decide. Any other exception is a bug: its traceback is logged, then the call traps."""

    def __init__(self, code: str, message: str, retryable: bool, retry_after_ms: int | None = None):
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms

    @classmethod
    def retry(cls, code: str, message: str, retry_after_ms: int | None = None) -> Self:
        """A retryable failure."""
        return cls(code, message, True, retry_after_ms)

    @classmethod
    def reject(cls, code: str, message: str) -> Self:
        """A permanent failure: the event is dead-lettered without a retry."""
        return cls(code, message, False)


@dataclass
class Description:
    """The description of a stage. Event types in `consumes` may be AMQP topic patterns."""

    name: str
    version: str
    summary: str
    consumes: list[str]
    emits: list[str]
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass
class Emit:
    """An event emitted by a stage. Its type must be declared in the description; its subject defaults to that of the incoming event."""

    type: str
    data: Any = None
    subject: str | None = None
    delay_ms: int = 0
    attributes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """A wrong type would fail in the sandbox, far from its cause."""
        _check(self.type, str, "`type` of an `Emit`")
        _check(self.subject, (str, type(None)), "`subject` of an `Emit`")
        _check(self.delay_ms, int, "`delay_ms` of an `Emit`")
        if not 0 <= self.delay_ms <= U32_MAX:
            raise ValueError(f"`delay_ms` of an `Emit` must be from 0 to {U32_MAX}, not {self.delay_ms}")
        for name, value in self.attributes.items():
            _check(value, str, f"the attribute `{name}` of an `Emit`")


@dataclass
class Event:
    """The incoming event."""

    type: str
    subject: str
    data: bytes
    id: str = ""
    source: str = ""
    time_ms: int = 0
    content_type: str = "application/json"
    attributes: dict[str, str] = field(default_factory=dict)

    def object(self, code: str) -> dict:
        """The payload as a JSON object. Any other payload is rejected with `code`."""
        value = from_json(self.data, code, f"the payload of {self.type}")
        if not isinstance(value, dict):
            raise Failure.reject(code, f"the payload of {self.type} is not a JSON object")
        return value


class Context:
    """The context of a call. `host` has the contract's imports, for functions without a shorthand here."""

    def __init__(self, host: Any):
        self.host = host

    def get(self, key: str, default: Any = None) -> Any:
        """Reads a JSON value of the state."""
        value = self.host.state.get(key)
        return default if value is None else from_json(value, "bad-state", f"the state under {key}")

    def set(self, key: str, value: Any) -> None:
        _check(key, str, "the key of `set`")
        self.host.state.set(key, to_json(value))

    def remove(self, key: str) -> None:
        self.host.state.remove(key)

    def keys(self, prefix: str, after: str = "", limit: int = 1000) -> list[str]:
        """Lists the state keys that start with `prefix` and sort after `after`, in byte order."""
        return self.host.state.list_keys(prefix, after, limit)

    def setting(self, key: str, default: Any = None) -> Any:
        """Reads a setting as the type of `default`: str, bool, int, float, or any other that a text makes; as text if `default` is None."""
        text = self.host.config.get(key)
        if text is None:
            return default
        wanted = str if default is None else type(default)
        try:
            return BOOLEANS[text.strip().lower()] if wanted is bool else wanted(text)
        except (KeyError, ValueError, ArithmeticError):
            raise Failure.reject("bad-setting", f"the setting {key} is not of type {wanted.__name__}: {text}") from None

    @property
    def attempt(self) -> int:
        """Number of the attempt, starting at 1."""
        return self.host.delivery.attempt()

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this event. Send it with external effects and derive ids from it."""
        return self.host.delivery.idempotency_key()

    @property
    def now_ms(self) -> int:
        """Start time of the attempt, in milliseconds since 1970-01-01 UTC."""
        return self.host.delivery.now_ms()

    def debug(self, message: str, **fields: Any) -> None:
        self._log("DEBUG", message, fields)

    def info(self, message: str, **fields: Any) -> None:
        self._log("INFO", message, fields)

    def warn(self, message: str, **fields: Any) -> None:
        self._log("WARN", message, fields)

    def error(self, message: str, **fields: Any) -> None:
        self._log("ERROR", message, fields)

    def _log(self, level: str, message: str, fields: dict[str, Any]) -> None:
        log = self.host.log
        log.log(log.Level[level], message, [(name, str(value)) for name, value in fields.items()])


def _check(value: Any, expected: Any, place: str) -> None:
    if not isinstance(value, expected):
        raise TypeError(f"{place} must be {expected}, not {value!r}")


def from_json(data: bytes, code: str, what: str) -> Any:
    try:
        return json.loads(data, parse_float=_number)
    except ValueError as error:
        raise Failure.reject(code, f"{what} is not valid JSON: {error}") from None


def to_json(value: Any) -> bytes:
    text = json.dumps(_marked(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return MARKED.sub(r"\1", text).encode()


class ExactNumber(float):
    """A number with more digits than a float holds. It counts as the nearest float, and is written as it was read."""

    def __new__(cls, text: str) -> Self:
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __repr__(self) -> str:
        return self.text


def _number(text: str) -> float:
    number = float(text)
    return number if Decimal(repr(number)) == Decimal(text) else ExactNumber(text)


def _marked(value: Any) -> Any:
    """The value with exact numbers as strings that `to_json` recognises: `json` would write them as floats."""
    match value:
        case ExactNumber():
            return MARK + value.text
        case dict():
            return {key: _marked(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_marked(inner) for inner in value]
    return value
