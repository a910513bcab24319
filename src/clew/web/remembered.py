"""What nearly every request asks for, kept for some seconds: who a cookie belongs to, what a project's tasks look like.

Changes made through this server are seen at once; those that another server makes on the same store, after that time.
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Remembered(Generic[T]):
    """Example: `person = Remembered[Person](seconds=2, clock=time.monotonic).get(cookie, find)`"""

    def __init__(self, *, seconds: float, clock: Callable[[], float], most: int = 10_000) -> None:
        self._seconds, self._clock, self._most = seconds, clock, most
        self._kept: dict[str, tuple[float, T]] = {}
        self._changes = 0
        self._lock = threading.Lock()

    def known(self, key: str) -> T | None:
        """None where it must be found anew."""
        until, value = self._kept.get(key, (0.0, None))
        return value if self._clock() < until else None

    def get(self, key: str, find: Callable[[str], T]) -> T:
        """None is found anew every time."""
        value = self.known(key)
        if value is not None:
            return value
        changes = self._changes
        value = find(key)
        with self._lock:
            if value is not None and changes == self._changes:  # what was found before a change is not kept after it
                if len(self._kept) >= self._most:
                    self._kept.clear()
                self._kept[key] = (self._clock() + self._seconds, value)
        return value

    def forget(self) -> None:
        """Something has changed."""
        with self._lock:
            self._changes += 1
            self._kept.clear()
