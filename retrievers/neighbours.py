"""What passages lean on: the words their paragraph goes on from, the places they refer to, the terms they use.

Knows no search: it is told what was found, and looks up by citation and part.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from retrievers import citations
from retrievers.citations import Citation
from retrievers.definitions import Entry
from retrievers.documents import Passage

_OPENING = 400  # characters of a paragraph's opening words at most
_LEADERS = 3  # passages whose neighbours are looked for, from the best
_DESIGNATOR = re.compile(r"\s*\(([A-Za-z0-9]{1,5})\)(?!\s*\()")
_SENTENCE_END = re.compile(r"[:.](?=\s|$)|—(?=\s|$)")

Relation = Literal["parent", "reference", "definition"]
Lookup = Callable[[Citation], Sequence[Passage]]
Document = Callable[[str], Sequence[Passage]]


Glossary = Callable[[str], Sequence[Entry]]


def find(
    question: str, passages: Sequence[Passage], limit: int, *, cited: Lookup, document: Document, glossary: Glossary
) -> list[Passage]:
    """At most `limit` passages that `passages` lean on and do not hold already, each once.

    `cited(citation)` gives the passages of a place, the likeliest first; `document(uri)` those of a document in their
    order; `glossary(part)` the terms that a part defines. Each passage gains `match` "neighbour", and a `relation`.
    """
    found: list[Passage] = []
    shown = [passage.page_content for passage in passages]
    for candidate in _candidates(question, passages[:_LEADERS], cited, document, glossary):
        if len(found) == limit:
            break
        if not any(candidate.page_content in text for text in shown):
            found.append(candidate)
            shown.append(candidate.page_content)
    return found


def _candidates(
    question: str, leaders: Sequence[Passage], cited: Lookup, document: Document, glossary: Glossary
) -> Iterator[Passage]:
    """All there is, what matters most first: each leader's parent, what each refers to, then the terms."""
    for passage in leaders:
        if parent := _parent(passage, document):
            yield parent
    for passage in leaders:
        own = citations.read(passage.metadata["citation"])
        for reference in citations.find(passage.page_content):
            if own and (reference.whole == own.whole or not (reference.section or reference.kdb)):
                continue
            for target in cited(reference)[:1]:
                yield _marked(target, "reference")
    for passage in leaders:
        terms = glossary(passage.metadata["part"])
        for text in (question, passage.page_content):
            yield from (_definition(entry) for entry in _used(terms, text))


def _parent(passage: Passage, document: Document) -> Passage | None:
    """The opening words of the paragraph that the passage's own paragraph is a part of."""
    own = citations.read(passage.metadata["citation"])
    if own is None or not own.paragraphs:
        return None
    before = [each for each in document(passage.metadata["document"]) if each.metadata["ordinal"] < passage.metadata["ordinal"]]
    outer = own.paragraphs[:-1]
    for earlier in reversed(before):
        place = citations.read(earlier.metadata["citation"])
        if place is None or place.whole != own.whole:
            continue
        text = earlier.page_content
        if outer:
            lines = list(re.finditer(rf"^[ \t]*(?:\(\w+\)[ \t]*)*\({re.escape(outer[-1])}\)", text, re.MULTILINE))
            start = lines[-1].start() if lines else (0 if place.paragraphs == outer else None)
        else:
            start = None if place.paragraphs else 0
        if start is not None:
            return _part(earlier, start, _opening_end(text, start), "parent", citation=str(_at(own, outer)))
    return None


def _opening_end(text: str, start: int) -> int:
    line = text.find("\n", start)
    end = min(len(text) if line < 0 else line, start + _OPENING)
    sentence = _SENTENCE_END.search(text, start + 12, end)
    return sentence.end() if sentence else end


def _used(terms: Sequence[Entry], text: str) -> list[Entry]:
    """The entries whose term the text uses, the longest terms first."""
    lower = text.lower()
    used = [
        entry for entry in terms if (term := entry.term.lower()) in lower and re.search(rf"\b{re.escape(term)}(?:e?s)?\b", lower)
    ]
    return sorted(used, key=lambda entry: (-len(entry.term), entry.term))


def _definition(entry: Entry) -> Passage:
    return _part(entry.passage, entry.start, entry.end, "definition", citation=_cite_of(entry))


def _cite_of(entry: Entry) -> str:
    """The entry's own cite where it begins with a designator of its passage's last level: (o) beside (n); else ""."""
    own = citations.read(entry.passage.metadata["citation"])
    designator = _DESIGNATOR.match(entry.passage.page_content, entry.start)
    if own is None or designator is None or not own.paragraphs:
        return ""
    kinds, others = (dict(citations.ordinals(token)).keys() for token in (designator[1], own.paragraphs[-1]))
    return str(_at(own, (*own.paragraphs[:-1], designator[1]))) if kinds & others else ""


def _part(passage: Passage, start: int, end: int, relation: Relation, citation: str = "") -> Passage:
    """Some of a passage's text, with the span that it has in the document."""
    text = passage.page_content[start:end]
    start += len(text) - len(text.lstrip())
    text = text.strip()
    # a table's repeated head stands before the span's own text
    origin = passage.metadata["end"] - len(passage.page_content)
    span = {"start": max(passage.metadata["start"], origin + start), "end": origin + start + len(text)}
    cited = {"citation": citation} if citation else {}
    return _marked(Passage(id=passage.id, page_content=text, metadata=passage.metadata | span | cited), relation)


def _marked(passage: Passage, relation: Relation) -> Passage:
    passage.metadata |= {"match": "neighbour", "relation": relation}
    return passage


def _at(citation: Citation, paragraphs: tuple[str, ...]) -> Citation:
    return Citation(citation.title, citation.part, citation.section, paragraphs, citation.kdb)
