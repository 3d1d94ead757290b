"""Lets an answer through as it is written, or without its unsupported sentences. Knows nothing about how they are checked."""

from collections.abc import Iterable, Iterator

from chains.markers import Closed


class Gate:
    """Takes an answer's text with its closed sentences and gives both on, each sentence right after the text that ends it.

    With `strict` a sentence waits until it is checked, and an unsupported one is left out with the white space before it;
    `withheld` counts them. What is given on is then shorter, and its sentences' places are counted in it.
    """

    def __init__(self, *, strict: bool) -> None:
        self.withheld = 0
        self._strict = strict
        self._held = ""
        self._place = 0  # of what is held, in the answer as it is written
        self._shown = 0  # characters given on
        self._space = ""  # before what was left out

    def feed(self, text: str, closed: Iterable[Closed]) -> Iterator[tuple[str, Closed | None]]:
        """Yield pieces of text, each with the sentence it ends, or with None; a sentence may also come without text."""
        self._held += text
        for each in closed:
            if each.sentence is None:
                yield "", each
            elif self._strict:
                yield from self._judged(each)
            else:
                yield self._pass_on(each.sentence.end - self._shown), each
        if not self._strict and self._held:
            yield self._pass_on(len(self._held)), None

    def _pass_on(self, length: int) -> str:
        length = max(length, 0)  # the sentence may have waited for the next one, which shows how it is to be taken
        text, self._held = self._held[:length], self._held[length:]
        self._shown += length
        return text

    def _judged(self, closed: Closed) -> Iterator[tuple[str, Closed]]:
        sentence = closed.sentence
        assert sentence is not None
        start, end = sentence.start - self._place, sentence.end - self._place
        space, said, self._held = self._held[:start], self._held[start:end], self._held[end:]
        self._place = sentence.end
        if self._space.count("\n") > space.count("\n"):
            space = self._space
        if sentence.support == "unsupported":
            self.withheld += 1
            self._space = space
            return
        self._space = ""
        space = space if self._shown else space.lstrip()
        start = self._shown + len(space)
        self._shown = start + len(said)
        yield space + said, Closed(sentence.model_copy(update={"start": start, "end": self._shown}), closed.citations)
