"""Files in, documents out: finds files, chooses the loader for each, and turns what goes wrong into one plain line.

Knows nothing about splitting, embedding or stores.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from errors import DocumentError
from retrievers.documents import SourceDocument
from retrievers.loaders.pieces import LoadFailure

__all__ = ["LARGEST", "SUFFIXES", "Discovery", "LoadFailure", "discover", "load"]

_log = logging.getLogger(__name__)

_Loader = Callable[[Path, str, str], Iterator[SourceDocument | LoadFailure]]

SUFFIXES = frozenset({".txt", ".md", ".markdown", ".html", ".htm", ".pdf", ".docx", ".xml", ".jsonl"})
_UNUSABLE = (OSError, ValueError, RuntimeError)  # what a path may raise: no right to it, a zero byte, links in a circle
_MARKS = (b"\xff\xfe", b"\xfe\xff")  # of UTF-16, whose text has zero bytes

LARGEST = 200_000_000  # bytes; more is taken for a mistake


class Discovery(NamedTuple):
    """What was found: each file to load with its root, and the files in folders that no loader reads.

    And what could not be looked at: the folders and files, each with the reason.
    """

    files: list[tuple[Path, Path]]
    ignored: list[Path]
    failed: list[tuple[Path, str]]


def discover(paths: Sequence[Path]) -> Discovery:
    """The files that `paths` name, folders expanded, sorted, each once.

    A folder is the root of the files in it, a named file its own. Hidden files and folders are passed over unless
    named; a folder that is reached a second time through links is not entered again. A named file is always kept: if it
    cannot be read, `load` says why. Never raises.
    """
    files: dict[Path, tuple[Path, Path]] = {}
    ignored: dict[Path, Path] = {}
    failed: dict[Path, str] = {}
    for named in paths:
        path = Path(os.path.abspath(named))  # noqa: PTH100 -- Path.resolve would lose the names that links give
        for file in _walk(path, failed):
            try:
                real = file.resolve()
            except _UNUSABLE as exc:
                failed[file] = _reason(exc)
                continue
            if file == path or file.suffix.lower() in SUFFIXES:
                files.setdefault(real, (file, path))
            else:
                ignored.setdefault(real, file)
    return Discovery(list(files.values()), [file for real, file in ignored.items() if real not in files], list(failed.items()))


def load(path: Path, *, root: Path) -> Iterator[SourceDocument | LoadFailure]:
    """The documents of one file, read as they are asked for; a failure in place of what cannot be read. Never raises.

    `source` is the path from the root folder on, with the folder's name, or the file's name if it is its own root.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 -- as in discover
    source = path.relative_to(root.parent).as_posix() if root != path and path.is_relative_to(root) else path.name
    uri = path.as_posix()
    try:
        yield from _loader(path)(path, source, uri)
    except DocumentError as exc:
        yield LoadFailure(uri, source, str(exc))
    except OSError as exc:
        yield LoadFailure(uri, source, _reason(exc))
    except Exception as exc:  # noqa: BLE001 -- whatever a library meets in a broken file, the other files must go on
        _log.debug("loading %s failed", path, exc_info=True)
        yield LoadFailure(uri, source, f"it cannot be read ({type(exc).__name__})")


def _walk(path: Path, failed: dict[Path, str]) -> Iterator[Path]:
    """The files below a folder in the order of their names, or the path itself if it is none."""
    try:
        if not path.is_dir():
            yield path
            return
    except _UNUSABLE as exc:
        failed[path] = _reason(exc)
        return

    def note(error: OSError) -> None:
        failed[Path(error.filename or path)] = _reason(error)

    entered: set[tuple[int, int]] = set()
    for here, folders, names in os.walk(path, onerror=note, followlinks=True):
        try:
            status = Path(here).stat()
        except OSError as exc:
            failed[Path(here)] = _reason(exc)
            folders.clear()
            continue
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(here) / name
            try:
                is_wanted = not name.startswith((".", "~$")) and file.is_file()
            except OSError as exc:
                failed[file] = _reason(exc)
                continue
            if is_wanted:
                yield file


def _reason(error: Exception) -> str:
    return f"it cannot be opened: {getattr(error, 'strerror', None) or error}"


def _loader(path: Path) -> _Loader:
    """The loader for a file: by what it holds where that is plain to see, else by its suffix."""
    from retrievers.loaders import ecfr, pdf, plain, sections, webpage, word

    loaders: dict[str, _Loader] = {
        ".txt": plain.load_text,
        ".md": plain.load_markdown,
        ".markdown": plain.load_markdown,
        ".html": webpage.load,
        ".htm": webpage.load,
        ".pdf": pdf.load,
        ".docx": word.load,
        ".xml": ecfr.load,
        ".jsonl": sections.load,
    }
    size = path.stat().st_size
    if path.is_dir():
        raise DocumentError("it is a folder")
    if path.suffix.lower() not in SUFFIXES:
        raise DocumentError(f"files of the kind {path.suffix or path.name!r} are not read")
    if size == 0:
        raise DocumentError("it is empty")
    if size > LARGEST:
        raise DocumentError("it is larger than 200 MB; split it")
    with path.open("rb") as file:
        return loaders[_kind(file.read(1024), path.suffix.lower())]


def _kind(start: bytes, suffix: str) -> str:
    """The suffix that fits how a file begins; its own where the beginning does not tell."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(b"%PDF-"):
        return ".pdf"
    if start.startswith(b"PK\x03\x04"):
        return ".docx"
    if text.startswith((b"<!doctype html", b"<html")) and suffix not in {".md", ".markdown"}:
        return ".html"
    if text.startswith(b"<?xml") and re.search(rb"<(?:div[1-9] |dlpstextclass|ecfr)", text):
        return ".xml"
    if b"\x00" in start and suffix in {".html", ".htm", ".xml", ".jsonl"} and not start.startswith(_MARKS):
        raise DocumentError("it is binary data, not text")
    return suffix
