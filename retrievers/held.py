"""What a store holds, remembered until something is written: editions of places, and terms that parts define."""

import threading
import time
from collections.abc import Sequence
from datetime import date

from qdrant_client import models

from retrievers import definitions, editions
from retrievers.definitions import Entry
from retrievers.store import Store, among, equals

_FRESH = 60.0  # seconds in which others' writes to a server may go unseen


class Held:
    """Looks up once what every search needs to know. Any thread may call; each method may raise StoreError."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._seen: tuple[int, float] = (-1, 0.0)
        self._editions: dict[str, set[str]] | None = None
        self._terms: dict[str, list[Entry]] = {}

    def outdated(self, day: date | None) -> list[models.Condition]:
        """What no passage may match whose edition is to hold on `day` (None: is to be the newest)."""
        with self._lock:
            self._forget_if_written()
            if self._editions is None:
                self._editions = self._store.editions()
            found = editions.outdated(self._editions, day)
        return [models.Filter(must=[equals("edition", name), among("place", places)]) for name, places in found.items()]

    def glossary(self, part: str) -> Sequence[Entry]:
        """The terms that the definitions of a part define; none for "", which is no part."""
        with self._lock:
            self._forget_if_written()
            if part and part not in self._terms:
                self._terms[part] = definitions.entries(self._store.passages(models.Filter(must=[equals("part", part)])))
            return self._terms.get(part, [])

    def _forget_if_written(self) -> None:
        writes, seen = self._seen
        old = not self._store.embedded and time.monotonic() - seen > _FRESH
        if old or writes != self._store.writes:
            self._seen = (self._store.writes, time.monotonic())
            self._editions, self._terms = None, {}
