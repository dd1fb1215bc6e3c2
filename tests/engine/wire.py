"""The engine's JSON, and its faults.

In JSON the engine sends every number and boolean as a string and dates as integers (epoch milliseconds),
omits absent values, wraps lists in the name of their element, and sends an empty list as `{}`. `encode` does
the first three, so that the rest of the code works with ordinary values; `listing` does the last two.

Values in requests may be strings, or have their own JSON type.
"""

import json
import time
import uuid
from dataclasses import dataclass, field


class Date(int):
    """A date in epoch milliseconds: the only number that JSON carries as a number."""

    @classmethod
    def at(cls, seconds):
        return cls(seconds * 1000)

    @classmethod
    def now(cls):
        return cls.at(time.time())


def encode(value):
    if isinstance(value, dict):
        return {name: encode(member) for name, member in value.items() if member is not None}
    if isinstance(value, list):
        return [encode(member) for member in value]
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and not isinstance(value, Date):
        return str(value)
    return value


def listing(element, members):
    return {element: members} if members else {}


@dataclass
class Answer:
    """An HTTP answer. With `padding`, a body of that many bytes is sent instead of `body`; `value` is what it
    says.
    """

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict = field(default_factory=dict)
    error: str | None = None
    padding: int = 0
    value: object = None

    @classmethod
    def json(cls, status, value, **rest):
        value = encode(value)
        return cls(status, json.dumps(value).encode(), value=value, **rest)


class Refused(Exception):
    """A request that the engine refuses with a fault. As there, several messages form one detail, in
    brackets.
    """

    def __init__(self, status, *messages, reason="Operation Failed"):
        super().__init__(*messages)
        self.status = status
        self.reason = reason
        self.detail = f"[{', '.join(messages)}]" if reason == "Operation Failed" else messages[0]

    def answer(self):
        fault = {"detail": self.detail, "reason": self.reason}
        return Answer.json(self.status, fault, error=self.detail)


class NotFound(Exception):
    """A missing object: 404 without a body."""

    def answer(self):
        return Answer(404, error="not found")


def incomplete(what):
    return Refused(400, f"{what} required for add", reason="Incomplete parameters")


def boolean(body, name, default=None):
    value = body.get(name, default)
    if value in (True, "true"):
        return True
    if value in (False, "false"):
        return False
    if value is None:
        return None
    raise Refused(400, f"{name}: not a boolean: {value}")


def integer(body, name, default=None):
    value = body.get(name, default)
    if value is None:
        return None
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise Refused(400, f"{name}: not a number: {value}") from None
    if number < 0:
        raise Refused(400, f"{name}: negative: {value}")
    return number


def choice(body, name, allowed, default=None):
    value = body.get(name, default)
    if value is not None and value not in allowed:
        raise Refused(400, f"{name}: {value} is none of {', '.join(allowed)}")
    return value


def identifier(value):
    """Returns a UUID in its canonical form, or None if `value` is none."""
    try:
        return str(uuid.UUID(value))
    except (AttributeError, TypeError, ValueError):
        return None


def new_id():
    return str(uuid.uuid4())
