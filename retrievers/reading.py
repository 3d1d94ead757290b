"""Whole texts: of what is indexed of a section or a source, or of a file. Knows nothing about what they are read for."""

from itertools import groupby
from pathlib import Path

from qdrant_client import models

from errors import DocumentError, InvalidRequest, NotFound
from retrievers import citations
from retrievers.documents import Passage
from retrievers.loaders import LoadFailure, load
from retrievers.store import Store, equals


def whole(store: Store, *, citation: str = "", source: str = "") -> str:
    """The text that is indexed of a cited place ("47 CFR 15.247", "47 CFR 15.247(b)") or of a source (a file).

    If several documents hold the place, the longest of them. Raises NotFound, and InvalidRequest for what is no citation.
    """
    if source:
        found = store.passages(models.Filter(must=[equals("source", source)]))
        if not found:
            raise NotFound(f"nothing is indexed from {source}")
        return _joined(found)
    try:
        asked = citations.parse(citation)
    except ValueError:
        raise InvalidRequest(f"{citation!r} is no citation such as 47 CFR 15.247, and no file") from None
    where = equals("section", asked.section) if asked.section else equals("part", asked.part)
    if asked.kdb:
        where = equals("citation", str(asked))
    found = [passage for passage in store.passages(models.Filter(must=[where])) if _within(asked, passage)]
    if not found:
        raise NotFound(f"nothing is indexed of {asked}")
    if not asked.section and not asked.kdb:
        return _joined(found)
    documents = [list(group) for _, group in groupby(found, key=lambda passage: passage.metadata["document"])]
    return _joined(max(documents, key=lambda passages: sum(len(p.page_content) for p in passages)))


def text_of(path: Path) -> str:
    """All the text of one file. Raises DocumentError if any of it cannot be read: half a file has no summary."""
    texts = []
    for item in load(path, root=path):
        if isinstance(item, LoadFailure):
            raise DocumentError(f"{path}: {item.reason}")
        texts.append(item.text)
    return "\n\n".join(texts)


def _within(asked: citations.Citation, passage: Passage) -> bool:
    try:
        own = citations.parse(passage.metadata["citation"])
    except ValueError:
        return False
    return own.title == asked.title and own.paragraphs[: len(asked.paragraphs)] == asked.paragraphs


def _joined(passages: list[Passage]) -> str:
    lines: list[str] = []
    heading = None
    for passage in passages:
        if passage.metadata["heading"] != heading:
            heading = passage.metadata["heading"]
            lines.append(heading)
        lines.append(passage.page_content)
    return "\n\n".join(line for line in lines if line)
