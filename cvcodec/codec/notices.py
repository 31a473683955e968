"""Sentences that a person should read, each once. Knows no terminals."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable


class Notices:
    """Passes sentences on, each once, and remembers them. Safe between threads."""

    def __init__(self, on_notice: Callable[[str], None] | None = None) -> None:
        self.said: list[str] = []
        self._on_notice = on_notice
        self._lock = threading.RLock()  # a callback may have something to say itself

    def __call__(self, text: str) -> None:
        """Say `text` unless it was said."""
        with self._lock:
            if text not in self.said:
                self.said.append(text)
                if self._on_notice is not None:
                    self._on_notice(text)

    def extend(self, texts: Iterable[str]) -> None:
        """Say each of `texts`."""
        for text in texts:
            self(text)
