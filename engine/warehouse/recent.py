"""A bounded memory of texts."""

from __future__ import annotations

import threading
from collections import OrderedDict


class Recent:
    """A set of the texts met lately; the ones not asked for longest are forgotten."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._texts: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, text: str) -> bool:
        with self._lock:
            if text not in self._texts:
                return False
            self._texts.move_to_end(text)
            return True

    def add(self, text: str) -> None:
        with self._lock:
            self._texts[text] = None
            while len(self._texts) > self._size:
                self._texts.popitem(last=False)
