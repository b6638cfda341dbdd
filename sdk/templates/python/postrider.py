"""The Postrider SDK: payloads and state as JSON, failures as exceptions.

It imports nothing of the sandbox, so stages are tested in plain Python.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

T = TypeVar("T")


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
        self.host.state.set(key, to_json(value))

    def remove(self, key: str) -> None:
        self.host.state.remove(key)

    def keys(self, prefix: str, after: str = "", limit: int = 1000) -> list[str]:
        """Lists the state keys that start with `prefix` and sort after `after`, in byte order."""
        return self.host.state.list_keys(prefix, after, limit)

    def setting(self, key: str, default: T) -> T:
        """Reads a setting as the type of `default`: str, int or float."""
        text = self.host.config.get(key)
        if text is None:
            return default
        try:
            return type(default)(text)
        except ValueError:
            raise Failure.reject("bad-setting", f"the setting {key} is not of type {type(default).__name__}: {text}") from None

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


def from_json(data: bytes, code: str, what: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise Failure.reject(code, f"{what} is not valid JSON: {error}") from None


def to_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
