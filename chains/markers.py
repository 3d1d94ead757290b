"""Sees to the [n] markers of an answer while it streams: takes out wrong ones, attaches missing ones. Code, not a model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from chains import claims
from chains.schema import Citation, Given, Sentence, Support
from chains.verify import Verdict, Verifier

MARKER = re.compile(r"(\s*)\[(\d{1,3}(?: ?, ?\d{1,3}){0,7})\]")
MAYBE_MARKER = re.compile(r"\s+|\s*\[[\d, ]{0,45}")  # as long as the longest marker
TOKEN = re.compile(r"\s+|\[|[^\s\[]+")
LISTED = re.compile(r"(?:[-*•]\s+)?\(?\d{1,3}[.)]")  # what begins an item of a list is no sentence
SILENT = Verdict("unsupported", verified=False)
SENTENCE = 5  # words; a shorter one may well be said twice


@dataclass(frozen=True, slots=True)
class Closed:
    """A sentence that is complete and checked, None for markers that stand without one, and what its markers are worth."""

    sentence: Sentence | None
    citations: tuple[Citation, ...]


class Markers:
    """Passes an answer's text through, piece by piece; no piece waits for more than the next word.

    A marker that names no given passage is taken out. A sentence the model left without a marker gets the passage that holds
    its figures and most of its words, if there is one. `citations` lists each marker in order, with what the check found.
    A sentence that says nothing of its own, such as "Yes." or a heading, and has no marker, shares the support of the one after
    it; at the end of the answer, of the one before it; alone it is unsupported.
    `repeating` turns true at the end of a sentence that the answer already holds: a small model that repeats itself runs in
    circles. Nothing after that sentence is passed through.
    """

    def __init__(self, sources: Sequence[Given]) -> None:
        self.citations: list[Citation] = []
        self.repeating = False
        self._given = {source.id for source in sources}
        self._verifier = Verifier(sources)
        self._said: set[str] = set()  # sentences, folded
        self._held = ""  # not passed on yet
        self._sentence = ""  # passed on already, without its markers
        self._markers: list[int] = []  # of this sentence
        self._passed = 0  # characters of the answer
        self._start = self._end = 0  # of this sentence, in the answer
        self._closed: list[Closed] = []
        self._bare: list[Closed] = []  # wait for the support of the next
        self._support: Support = "unsupported"  # of the sentence before

    def feed(self, text: str) -> str:
        """Return what can be passed on now; nothing once the answer is repeating itself."""
        if self.repeating:
            return ""
        self._held += text
        return "".join(iter(lambda: self._step(final=False), ""))

    def flush(self) -> str:
        """End the answer and return the rest."""
        rest = "".join(iter(lambda: self._step(final=True), "")) + self._close()
        self._settle(self._support)
        return rest

    def closed(self) -> list[Closed]:
        """The sentences that were completed since the last call, in their order; all of their text has been passed on."""
        closed, self._closed = self._closed, []
        return closed

    def _step(self, *, final: bool) -> str:
        """Consume the next marker, white space or word; "" when nothing is left or more text is needed."""
        while match := MARKER.match(self._held):
            self._held = self._held[match.end() :]
            if marked := self._mark(match[1], [int(n) for n in match[2].split(",")]):
                return self._pass(marked)
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
            return attached + self._pass(token)
        self._sentence += token
        return self._pass(token)

    def _pass(self, text: str) -> str:
        """Keep count of where the sentence begins and ends."""
        if not text.isspace():
            if self._end <= self._start:
                self._start = self._passed + len(text) - len(text.lstrip())
            self._end = self._passed + len(text)
        self._passed += len(text)
        return text

    def _mark(self, space: str, numbers: list[int]) -> str:
        self._markers += numbers
        if not (known := [n for n in numbers if n in self._given]):
            return space if "\n" in space else ""
        return space + "".join(f"[{n}]" for n in known)

    def _ended(self, space: str) -> bool:
        if "\n" in space:
            return True
        stopped = self._sentence.endswith((".", "!", "?")) and not (
            claims.is_abbreviated(self._sentence, len(self._sentence)) or LISTED.fullmatch(self._sentence.strip())
        )
        return stopped and not self._held[:1].islower()

    def _close(self) -> str:
        """End the sentence; return the marker that is attached to it, if any."""
        sentence, markers = self._sentence, self._markers
        self._sentence, self._markers = "", []
        if not (sentence.strip() or markers):
            return ""
        self._note(sentence)
        known = list(dict.fromkeys(n for n in markers if n in self._given))
        said = claims.of(sentence)
        silent = not sentence.strip() or (said.is_bare and not known)
        found = self._verifier.check(said, known) if known or not silent else SILENT
        attached = "" if found.attached is None else self._pass(f" [{found.attached}]")
        citations = [Citation(marker=n, verified=found.verified and n in self._given) for n in markers]
        if found.attached is not None:
            citations.append(Citation(marker=found.attached, verified=True, attached=True))
            known = [found.attached]
        self.citations += citations
        closed = Closed(self._checked(found, known) if sentence.strip() else None, tuple(citations))
        self._start = self._end = self._passed
        if silent:
            self._bare.append(closed)
        else:
            self._settle(found.support)
            self._closed.append(closed)
        return attached

    def _checked(self, found: Verdict, markers: list[int]) -> Sentence:
        start, end = found.span or (None, None)
        return Sentence(
            start=self._start,
            end=self._end,
            support=found.support,
            markers=markers,
            quote=found.quote,
            quote_source=found.quote_source,
            quote_start=start,
            quote_end=end,
            missing=found.missing,
        )

    def _settle(self, support: Support) -> None:
        """Let the sentences that say nothing of their own share this support."""
        for bare in self._bare:
            sentence = bare.sentence and bare.sentence.model_copy(update={"support": support})
            self._closed.append(Closed(sentence, bare.citations))
        self._bare = []
        self._support = support

    def _note(self, sentence: str) -> None:
        words = sentence.lower().split()
        folded = " ".join(words)
        self.repeating |= len(words) >= SENTENCE and folded in self._said
        self._said.add(folded)
