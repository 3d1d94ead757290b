"""Sees to the [n] markers of an answer while it streams: checks the model's, attaches missing ones. Code, not a model."""

import re
from collections.abc import Sequence

from chains.schema import Citation, Source

WORD = re.compile(r"[a-z][a-z'-]+")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
FIGURE = r"(?>\d{1,9}(?:\.\d{1,6})?)"
FREQUENCIES = re.compile(
    rf"((?:{FIGURE}(?:\s?(?:-|\u2013|,|to|and|or)\s?){{1,2}}){{0,12}}{FIGURE})\s?([kMG]?Hz)\b", re.IGNORECASE
)
HERTZ = {"hz": 1.0, "khz": 1e3, "mhz": 1e6, "ghz": 1e9}
QUOTED = re.compile(r"[\"“]([^\"”]{3,})[\"”]")
MARKER = re.compile(r"(\s*)\[(\d{1,3}(?: ?, ?\d{1,3}){0,7})\]")
MAYBE_MARKER = re.compile(r"\s+|\s*\[[\d, ]{0,45}")  # as long as the longest marker
TOKEN = re.compile(r"\s+|\[|[^\s\[]+")
ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|no|sec|fig|approx|u\.s|cf|al)|\b[A-Z])\.$", re.IGNORECASE)
STOPWORDS = frozenset(
    re.findall(
        r"\w+",
        "the and for are was were that this with from which must may shall not any its has have had can will would should their "
        "there than then they them these those such into upon been being also only each other where when what who you your our "
        "his her per all one two under over between within",
    )
)
ENOUGH = 0.5  # share of a sentence's words a passage must hold before it is taken for the sentence's source
SENTENCE = 5  # words; a shorter one may well be said twice


class Markers:
    """Passes an answer's text through, piece by piece; no piece waits for more than the next word.

    A marker that names no given passage is taken out. A sentence the model left without a marker gets the passage that holds
    its figures and most of its words, if there is one. `citations` lists each marker in order, with what the check found.
    `repeating` turns true at the end of a sentence that the answer already holds: a small model that repeats itself runs in
    circles. Nothing after that sentence is passed through.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.citations: list[Citation] = []
        self._passages = {s.id: f"{s.citation}\n{s.title}\n{s.quote}" for s in sources}
        self.repeating = False
        self._said: set[str] = set()  # sentences, folded
        self._held = ""  # not passed on yet
        self._sentence = ""  # passed on already, without its markers
        self._markers: list[int] = []  # of this sentence

    def feed(self, text: str) -> str:
        """Return what can be passed on now; nothing once the answer is repeating itself."""
        if self.repeating:
            return ""
        self._held += text
        return "".join(iter(lambda: self._step(final=False), ""))

    def flush(self) -> str:
        """End the answer and return the rest."""
        return "".join(iter(lambda: self._step(final=True), "")) + self._close()

    def _step(self, *, final: bool) -> str:
        """Consume the next marker, white space or word; "" when nothing is left or more text is needed."""
        while match := MARKER.match(self._held):
            self._held = self._held[match.end() :]
            if marked := self._mark(match[1], [int(n) for n in match[2].split(",")]):
                return marked
        if not self._held or (not final and MAYBE_MARKER.fullmatch(self._held)):
            return ""
        match = TOKEN.match(self._held)
        assert match is not None  # TOKEN matches any character
        token, self._held = match[0], self._held[match.end() :]
        if token.isspace() and self._ended(token):
            attached = self._close()
            if self.repeating:
                self._held = ""
                return attached
            return attached + token
        self._sentence += token
        return token

    def _mark(self, space: str, numbers: list[int]) -> str:
        self._markers += numbers
        if not (known := [n for n in numbers if n in self._passages]):
            return space if "\n" in space else ""
        return space + "".join(f"[{n}]" for n in known)

    def _ended(self, space: str) -> bool:
        if "\n" in space:
            return True
        stopped = self._sentence.endswith((".", "!", "?")) and not ABBREVIATION.search(self._sentence)
        return stopped and not self._held[:1].islower()

    def _close(self) -> str:
        """End the sentence; return the marker that is attached to it, if any."""
        sentence, markers = self._sentence, self._markers
        self._sentence, self._markers = "", []
        self._note(sentence)
        known = [n for n in markers if n in self._passages]
        held = _holds("\n".join(self._passages[n] for n in known), sentence)
        self.citations += [Citation(marker=n, verified=held and n in self._passages) for n in markers]
        if known or (best := self._best(sentence)) is None:
            return ""
        self.citations.append(Citation(marker=best, verified=True, attached=True))
        return f" [{best}]"

    def _note(self, sentence: str) -> None:
        words = sentence.lower().split()
        folded = " ".join(words)
        self.repeating |= len(words) >= SENTENCE and folded in self._said
        self._said.add(folded)

    def _best(self, sentence: str) -> int | None:
        words = set(WORD.findall(sentence.lower())) - STOPWORDS
        if len(words) < 3:
            return None
        best, best_share = None, ENOUGH
        for number, text in self._passages.items():
            share = len(words & set(WORD.findall(text.lower()))) / len(words)
            if share > best_share and _holds(text, sentence):
                best, best_share = number, share
        return best


def _holds(text: str, sentence: str) -> bool:
    """Whether `text` has each figure and each quotation of `sentence`."""
    unsaid = _values(sentence) - _values(text)
    # 2.4 GHz is said by "2400-2483.5 MHz", whose first figure has its unit at the end of the list
    unsaid -= {figure for hertz, figures in _frequencies(sentence).items() if hertz in _frequencies(text) for figure in figures}
    return not unsaid and all(quote in _flat(text) for quote in _quotes(sentence))


def _values(text: str) -> set[str]:
    return {n.replace(",", "") for n in NUMBER.findall(text)}


def _frequencies(text: str) -> dict[float, set[str]]:
    """Each frequency in hertz, with the figures it is written by."""
    found: dict[float, set[str]] = {}
    for figures, unit in FREQUENCIES.findall(text):
        for figure in _values(figures):
            if figure.count(".") < 2:
                found.setdefault(round(float(figure) * HERTZ[unit.lower()], 3), set()).add(figure)
    return found


def _flat(text: str) -> str:
    return " ".join(text.lower().split())


def _quotes(text: str) -> list[str]:
    return [_flat(q).rstrip(".,;") for q in QUOTED.findall(text)]
