"""One HTTP client for the bridge sinks: what a reply means for a delivery, said once.

Accepted (2xx) is delivered. A refusal of the content (400, 413, 415, 422) is taken apart until it is known which
revision is refused: that one is rejected. Everything else may pass (overload, outage, timeouts, also 401, 403 and
404, which somebody can put right): retry. No header's value, and so no key, ever stands in a detail.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from mlflow_assay.contracts import Delivery
from mlflow_assay.errors import ConfigError

__all__ = ["Client", "Reply", "deliver", "delivery_of", "number", "switch"]

_REFUSED = frozenset({400, 413, 415, 422})
_EXCERPT = 300
Item = TypeVar("Item")


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        status: the HTTP status; None where there was no reply.
        body: as received.
        retry_after_s: of the `Retry-After` header, in seconds; None where absent or unreadable.
        problem: one sentence without secrets; empty where the status is 2xx.
    """

    status: int | None
    body: bytes = b""
    retry_after_s: float | None = None
    problem: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the far end took it."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        """Whether the far end will never take this content."""
        return self.status in _REFUSED


class Client:
    """A kept-alive connection to one service. Not for several threads at once.

    Args:
        headers: sent with each request; their values are kept out of every message.
        timeout_s: seconds to connect, and seconds without a byte.
        auth: user and password of basic authentication.
        verify: a CA bundle's path, or True for the system's.
        cert: paths of a client certificate and its key.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        *,
        timeout_s: float = 10.0,
        auth: tuple[str, str] | None = None,
        verify: str | bool = True,
        cert: tuple[str, str] | None = None,
    ) -> None:
        import requests

        self._session = requests.Session()
        self._session.headers.update(headers)
        self._session.verify, self._session.cert = verify, cert
        # Without an auth of its own, requests would take one from a .netrc file.
        self._session.auth = auth if auth is not None else _unchanged
        self._timeout = timeout_s
        self._secrets = [value for value in (*headers.values(), *(auth or ())) if len(value) >= 8]

    def send(self, method: str, url: str, **content: Any) -> Reply:
        """One request (`data`, `json`, `params`, `headers` as in requests); never raises for the far end's faults."""
        import requests

        if "json" in content:
            content["json"] = _finite(content["json"])
        try:
            answer = self._session.request(method, url, timeout=self._timeout, allow_redirects=False, **content)
        except requests.RequestException as error:
            return Reply(None, problem=f"{_place(url)}: {self._clean(_cause(error))}")
        if 200 <= answer.status_code < 300:
            return Reply(answer.status_code, answer.content)
        excerpt = self._clean(_told(answer)[:_EXCERPT])
        problem = f"{_place(url)} answered {answer.status_code}" + (f": {excerpt}" if excerpt else "")
        return Reply(answer.status_code, answer.content, _retry_after(answer.headers.get("Retry-After")), problem)

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return " ".join(text.split())

    def close(self) -> None:
        """Let go of the connection."""
        self._session.close()


def _told(answer: Any) -> str:
    """The far end's words: OTLP's are a google.rpc.Status where they are protobuf."""
    if str(answer.headers.get("Content-Type", "")).startswith("application/x-protobuf"):
        from google.protobuf.message import DecodeError
        from google.rpc.status_pb2 import Status

        try:
            return str(Status.FromString(answer.content).message)
        except DecodeError:  # not what it says it is: then shown as it came
            pass
    return str(answer.content.decode("utf-8", "replace"))


def _finite(value: Any) -> Any:
    """The value with infinities and not-a-numbers, which JSON has none of, as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def _unchanged(request: Any) -> Any:
    return request


def _cause(error: Exception) -> str:
    """The innermost reason, without the wrapping libraries' object addresses."""
    name = type(error).__name__
    inner = getattr(error.args[0], "reason", None) if error.args else None
    told = str(inner or error)
    return f"{name}: {told.split('>: ', 1)[-1]}"


def _place(url: str) -> str:
    """Host and path, without user, password and query."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _retry_after(value: str | None) -> float | None:
    """Seconds, of a number of seconds or an HTTP date; None for anything else."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def delivery_of(reply: Reply) -> Delivery:
    """What a reply to a single revision means for it."""
    if reply.accepted:
        return Delivery("delivered")
    if reply.refused:
        return Delivery("rejected", reply.problem)
    return Delivery("retry", reply.problem, reply.retry_after_s)


def deliver(items: Sequence[Item], send: Callable[[Sequence[Item]], Sequence[Delivery] | Reply]) -> list[Delivery]:
    """Deliver a batch, halving what is refused until each refused item is known.

    Args:
        items: in order.
        send: sends some of them as one request; gives a reply, or what became of each where the reply says so.
    """
    if not items:
        return []
    answer = send(items)
    if not isinstance(answer, Reply):
        return list(answer)
    if answer.refused and len(items) > 1:
        middle = len(items) // 2
        return deliver(items[:middle], send) + deliver(items[middle:], send)
    return [delivery_of(answer)] * len(items)


def number(option: str, value: Any, *, low: float = 0.0) -> float:
    """An option as a number above `low`, from a number or its text.

    Raises:
        ConfigError: it is none.
    """
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = low
    if not found > low:
        raise ConfigError(f"The option {option} must be a number above {low:g}.", found=repr(value))
    return found


def switch(option: str, value: Any) -> bool:
    """An option as true or false, from a bool or its text.

    Raises:
        ConfigError: it is neither.
    """
    word = str(value).strip().lower()
    if word not in ("true", "false", "1", "0", "yes", "no"):
        raise ConfigError(f"The option {option} must be true or false.", found=repr(value))
    return word in ("true", "1", "yes")
