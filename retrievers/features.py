"""What a question and the passages found for it share, as numbers. Knows neither store nor model, nor what a number is worth.

None of it knows what a text is about. A text's words are those that BM25 counts, and a word counts the more, the fewer of
the passages (or of their headings) have it.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import quantities
from retrievers import citations, definitions
from retrievers.documents import Passage
from retrievers.splitting import HEADING_SEPARATOR

Terms = Callable[[str], Sequence[int]]  # the words of a text that count, in their order, as numbers

_LONG = 200  # words that count as one of length
_BEST_OF_SECTION = 4  # passages of a section that speak for it
_WINDOW = 40  # words that stand close to each other
_TITLE = 4  # words of a title that count at most
_NUMBER = re.compile(r"^(?:§+\s*[\d.]+\w*|Appendix\s+\w+)\s*")  # of a section, before its title
_ASKS_MEANING = re.compile(r"\b(?:definition|defined?|meant|mean(?:s|ing)?|term)\b|^\s*what\s+(?:is|are)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage that was found, its cosine with the question, its BM25 score and its places in the two rankings (0: in none)."""

    passage: Passage
    cosine: float
    bm25: float
    dense_rank: int
    sparse_rank: int

    @property
    def fused(self) -> float:
        """The sum of the reciprocal ranks (Cormack et al., 2009), with 2 as the constant, as Qdrant fuses them."""
        return sum(1 / (2 + rank) for rank in (self.dense_rank, self.sparse_rank) if rank)


def of_rankings(candidates: Sequence[Candidate]) -> dict[str, list[float]]:
    """What the two rankings say: `fused` ranks, and for `section` how well the best of a section rank together."""
    return {"fused": [candidate.fused for candidate in candidates], "section": _sections(candidates)}


def of_texts(question: str, candidates: Sequence[Candidate], terms: Terms) -> dict[str, list[float]]:
    """A number for each candidate under the name of each feature.

    `cosine`; `bm25`, of the highest; `coverage`, how much of the question passage and heading have; `window`, how much stands
    close together; `pairs`, the share of the question's neighbouring words that are neighbours there; `length`; `heading`, how
    much of the section's title the question has; `title`, the words of a title that it has as they stand; `definition`, how much
    of a question about a meaning is the term that is defined there; `figures`, the share of the question's figures with units
    that stand there, and `ranges`, of those that lie within a range there.
    """
    asked = terms(question)
    titles = [terms(title(candidate.passage)) for candidate in candidates]
    texts = [terms(candidate.passage.page_content) for candidate in candidates]
    headed = [[*terms(_heading(candidate.passage)), *text] for candidate, text in zip(candidates, texts, strict=True)]
    highest = max((candidate.bm25 for candidate in candidates), default=0.0) or 1.0
    rarity = _rarity([set(text) for text in headed])
    words = {term: rarity(term) for term in asked}
    figures, ranges = _figures(question, candidates)
    return {
        "cosine": [candidate.cosine for candidate in candidates],
        "bm25": [candidate.bm25 / highest for candidate in candidates],
        "coverage": _shares([sum(words[term] for term in words.keys() & set(text)) for text in headed], words),
        "window": _shares([_densest(text, words) for text in headed], words),
        "pairs": _pairs(asked, texts),
        "length": [len(text) / _LONG for text in headed],
        "heading": _headings(asked, titles),
        "title": [min(len(words), _TITLE) if _runs(words, asked) else 0.0 for words in titles],
        "definition": _shares(_definitions(question, asked, candidates, terms, words), words),
        "figures": figures,
        "ranges": ranges,
    }


def title(passage: Passage) -> str:
    """The nearest heading above the passage, without a section's number."""
    return _NUMBER.sub("", _heading(passage))


def place(passage: Passage) -> str:
    """The section, appendix or publication a passage stands in, or its document where it cites none."""
    citation = citations.read(passage.metadata["citation"])
    return str(citation.whole) if citation else passage.metadata["document"]


def _heading(passage: Passage) -> str:
    """The nearest heading above the passage, which may name what a table's figures are for."""
    return str(passage.metadata["heading"]).rpartition(HEADING_SEPARATOR)[2]


def _rarity(sets: Iterable[set[int]]) -> Callable[[int], float]:
    """What a word is worth: its inverse document frequency among the sets, as BM25 has it."""
    many = list(sets)
    having = Counter(term for words in many for term in words)
    return lambda term: math.log1p((len(many) - having[term] + 0.5) / (having[term] + 0.5))


def _shares(worths: Sequence[float], words: Mapping[int, float]) -> list[float]:
    """Of all that the question's words are worth."""
    total = sum(words.values()) or 1.0
    return [worth / total for worth in worths]


def _densest(text: Sequence[int], words: Mapping[int, float]) -> float:
    """The most worth of different words that stand within one window of the text."""
    best = 0.0
    hits = [(at, term) for at, term in enumerate(text) if term in words]
    for first, (start, _) in enumerate(hits):
        near: set[int] = set()
        for at, term in hits[first:]:
            if at - start >= _WINDOW:
                break
            near.add(term)
        best = max(best, sum(words[term] for term in near))
    return best


def _pairs(asked: Sequence[int], texts: Sequence[Sequence[int]]) -> list[float]:
    pairs = set(pairwise(asked))
    return [len(pairs & set(pairwise(text))) / max(len(pairs), 1) for text in texts]


def _headings(asked: Sequence[int], titles: Sequence[Sequence[int]]) -> list[float]:
    words, rarity = set(asked), _rarity({frozenset(title): set(title) for title in titles}.values())
    worth = {term: rarity(term) for title in titles for term in title}
    return [
        sum(worth[term] for term in words.intersection(title)) / (sum(worth[term] for term in set(title)) or 1.0)
        for title in titles
    ]


def _runs(words: Sequence[int], text: Sequence[int]) -> bool:
    """Whether the words stand in the text side by side."""
    run, count = tuple(words), len(words)
    return bool(run) and any(tuple(text[at : at + count]) == run for at in range(len(text) - count + 1))


def _definitions(
    question: str, asked: Sequence[int], candidates: Sequence[Candidate], terms: Terms, words: Mapping[int, float]
) -> list[float]:
    """For each candidate the worth of the most telling term that it defines, if the question asks what a term of it means."""
    if not _ASKS_MEANING.search(question):
        return [0.0] * len(candidates)

    def worth(term: str) -> float:
        run = terms(term)
        return sum(words[word] for word in set(run)) if _runs(run, asked) else 0.0

    return [max((worth(entry.term) for entry in definitions.entries([each.passage])), default=0.0) for each in candidates]


def _figures(question: str, candidates: Sequence[Candidate]) -> tuple[list[float], list[float]]:
    named = [figure for figure in quantities.find(question) if figure.unit]
    if not named:
        return [0.0] * len(candidates), [0.0] * len(candidates)
    has, spans = [], []
    for candidate in candidates:
        there = quantities.Figures(candidate.passage.page_content)
        stand = [there.has(figure) for figure in named]
        lie = [not found and there.spans(figure) for found, figure in zip(stand, named, strict=True)]
        has.append(sum(stand) / len(named))
        spans.append(sum(lie) / len(named))
    return has, spans


def _sections(candidates: Sequence[Candidate]) -> list[float]:
    """For each candidate how well its section's best ones rank together, as standard deviations from the mean."""
    of_section = defaultdict(list)
    for candidate in candidates:
        of_section[place(candidate.passage)].append(_smoothed(candidate))
    strength = {name: sum(sorted(ranks, reverse=True)[:_BEST_OF_SECTION]) for name, ranks in of_section.items()}
    values = [strength[place(candidate.passage)] for candidate in candidates]
    mean = sum(values) / max(len(values), 1)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / max(len(values), 1))
    return [(value - mean) / deviation if deviation else 0.0 for value in values]


def _smoothed(candidate: Candidate) -> float:
    """Reciprocal ranks with the constant 60: a section is known by many fair passages rather than by one."""
    return sum(1 / (60 + rank) for rank in (candidate.dense_rank, candidate.sparse_rank) if rank)
