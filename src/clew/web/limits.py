"""How much one address, one person and one request may ask for."""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, rates in requests a second.

    Example: `Limits(person_rate=50)`
    """

    body: int = 256 << 10
    bulk: int = 10 << 20
    """Body of an upload of items."""
    depth: int = 32
    """Brackets open at once in a JSON body."""
    body_timeout_s: float = 20.0
    header_timeout_s: float = 10.0
    address_rate: float = 300.0
    """A laboratory sits behind one address."""
    address_burst: float = 600.0
    person_rate: float = 20.0
    person_burst: float = 100.0
    login_rate: float = 0.5
    """Attempts from one address."""
    login_burst: float = 20.0


class Buckets:
    """Token buckets, one a key: each holds `burst` and is filled with `rate` a second.

    Example: `wait_s = Buckets(5, 20, time.monotonic).take("10.0.0.7")`
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float], *, most: int = 10_000) -> None:
        self._rate, self._burst, self._clock, self._most = rate, burst, clock, most
        self._levels: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, key: str) -> float:
        """Seconds to wait; 0 where the request may pass."""
        now = self._clock()
        with self._lock:
            level = self._level(key, now)
            if level < 1:
                return (1 - level) / self._rate
            if key not in self._levels and len(self._levels) >= self._most:
                self._forget(now)
            self._levels[key] = (level - 1, now)
            return 0.0

    def _level(self, key: str, now: float) -> float:
        level, since = self._levels.get(key, (self._burst, now))
        return min(self._burst, level + (now - since) * self._rate)

    def _forget(self, now: float) -> None:
        """The fuller half: a flood neither fills the memory nor makes who has run out forgotten."""
        fullest = sorted(self._levels, key=lambda key: -self._level(key, now))
        for key in fullest[: self._most // 2]:
            del self._levels[key]


def depth(body: bytes) -> int:
    """Most brackets open at once, strings left out: what a parser would have to nest."""
    if body.count(b"[") + body.count(b"{") < 2:
        return body.count(b"[") + body.count(b"{")
    brackets = BRACKET.findall(STRING.sub(b"", body))
    return max(accumulate((1 if b in b"[{" else -1 for b in brackets), initial=0))


def is_strict(body: bytes) -> bool:
    """Whether it has no NaN and no Infinity, which Python reads and JSON does not know."""
    if b"NaN" not in body and b"Infinity" not in body:
        return True
    return not NOT_JSON.search(STRING.sub(b"", body))


STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
BRACKET = re.compile(rb"[\[\]{}]")
NOT_JSON = re.compile(rb"NaN|Infinity")
