"""Remembers which documents a file held, so that an unchanged one need not be parsed. Knows neither passages nor stores.

What is remembered is true of the very bytes, of the file's name and of the code that read them, whenever that was and
whatever dates the file has; whether the documents are still indexed is for the store to say.
"""

import hashlib
import importlib.metadata
import json
import os
from pathlib import Path

from retrievers.cache import Cache
from retrievers.loaders import LARGEST

LIBRARIES = ("beautifulsoup4", "charset-normalizer", "lxml", "pypdfium2", "python-docx")  # with which the loaders read


def _reader() -> bytes:
    """A hash of all code that reads files, so that nobody who changes it has to remember to say so."""
    total = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        total.update(hashlib.sha256(file.read_bytes()).digest())
    for library in LIBRARIES:
        total.update(f"{library} {importlib.metadata.version(library)}\n".encode())
    return total.digest()


_READER = _reader()  # now, for the files may be others by the time they are used


class KnownFiles:
    """The files that were read wholly. `about` is what else decides a document's hash. Without a cache none is known."""

    def __init__(self, cache: Cache | None, about: str) -> None:
        self._cache, self._about = cache, about

    def key(self, path: Path, root: Path) -> bytes | None:
        """What the file is known by; None if it cannot be read, or is nothing to be read twice, such as a pipe."""
        if self._cache is None:
            return None
        try:
            if not path.is_file() or path.stat().st_size > LARGEST:
                return None
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").digest()
        except OSError:  # the loader says why
            return None
        names = b"\0".join((os.fsencode(path), os.fsencode(root), self._about.encode(), _READER))
        return hashlib.sha256(names + b"\0" + content).digest()

    def documents(self, key: bytes | None) -> dict[str, str] | None:
        """The hash of each document in the file by its uri, or None if the file is not known."""
        if self._cache is None or key is None or (value := self._cache.get([key]).get(key)) is None:
            return None
        return dict(json.loads(value))

    def remember(self, key: bytes | None, documents: dict[str, str]) -> None:
        """Keep what the file held. Only for a file that was read without a failure: failures are reported each time."""
        if self._cache is not None and key is not None:
            self._cache.put({key: json.dumps(documents).encode()})
