"""Reads the section numbers and paragraph designators of a text, and tells whether a passage has them. Knows no rules."""

import re
from dataclasses import dataclass

_DESIGNATOR = r"\((?:[A-Za-z]{1,2}|[ivxl]{1,6}|\d{1,3})\)"
_DESIGNATORS = rf"(?:\s?{_DESIGNATOR})*"
_NUMBER = r"\d{1,6}(?:\.\d{1,6}){0,5}[a-z]?(?!\w)(?!\.\d)"
_SIGN = (
    r"§{1,2}|\b(?:sections?|secs?\.|parts?|articles?|arts?\.|clauses?|rules?|regulations?|chapters?"
    r"|KDB(?:\s+pub(?:lication|\.))?(?:\s+no\.)?)(?=[\s\d])"
)
REFERENCE = re.compile(
    rf"""
    (?=§|\d|\b[SPACRKIspacrki])(?:  # looked at first: most places of a text begin none of these
    (?: \b(?P<title>\d{{1,2}})\s*(?:C\.?\s?F\.?\s?R\.?|U\.?\s?S\.?\s?C\.?)\s*(?:(?i:§{{1,2}}|parts?|sections?)\s*)?
      | (?P<sign>(?i:{_SIGN}))\s* )
      (?P<number>{_NUMBER})(?P<designators>{_DESIGNATORS})
  | \b(?i:appendix|annex|subpart|schedule|attachment)\s+(?P<letter>[A-Z]{{1,4}})\b
  | (?<![\w.])(?P<dotted>\d{{1,6}}(?:\.\d{{1,6}}){{1,5}})(?P<under>(?:{_DESIGNATOR})+)
  | (?<![\w.])(?P<deep>\d{{1,6}}(?:\.\d{{1,6}}){{2,5}})(?![\w])
  | \b(?i:paragraphs?|subparagraphs?|points?|items?)\s*(?P<alone>(?:{_DESIGNATOR})+) )
    """,
    re.VERBOSE,
)
PLURAL = re.compile(r"(?:§§|s\.?)\s*$", re.IGNORECASE)
MORE = re.compile(rf"\s*(?:,\s*(?:and|or)?|and|or|through|to|[-\u2013])\s*(?P<number>{_NUMBER})(?P<designators>{_DESIGNATORS})")
DOTTED = re.compile(rf"(?<![\w.])(\d{{1,6}}(?:\.\d{{1,6}}){{1,5}})({_DESIGNATORS})")
TOKEN = re.compile(r"\((\w+)\)")


@dataclass(frozen=True, slots=True)
class Reference:
    """A place that a text names: `number` is "" for a paragraph without its section, `title` the CFR's if it is given."""

    text: str
    number: str
    designators: tuple[str, ...] = ()
    title: str = ""

    @property
    def brackets(self) -> str:
        return "".join(f"({token})" for token in self.designators)


def split(text: str) -> tuple[list[Reference], str]:
    """The references of a text, in their order, and the text without them."""
    found: list[Reference] = []
    rest: list[str] = []
    end = 0
    while match := REFERENCE.search(text, end):
        rest.append(text[end : match.start()])
        found.append(_read(match))
        end = match.end()
        if PLURAL.search(match["sign"] or ""):
            while more := MORE.match(text, end):
                found.append(Reference(more[0].lstrip(" ,"), more["number"].upper(), _tokens(more["designators"])))
                end = more.end()
    return found, " ".join([*rest, text[end:]])


def _read(match: re.Match[str]) -> Reference:
    written = " ".join(match[0].split())
    number = match["number"] or match["letter"] or match["dotted"] or match["deep"] or ""
    brackets = match["designators"] or match["under"] or match["alone"] or ""
    return Reference(written, number.upper(), _tokens(brackets), match["title"] or "")


def _tokens(brackets: str) -> tuple[str, ...]:
    return tuple(TOKEN.findall(brackets))


class References:
    """What places a passage is, by its citation, and what places its text names, ready to be asked often."""

    def __init__(self, citation: str, text: str) -> None:
        self._own = split(citation)[0]
        self._named: dict[str, list[Reference]] = {}
        named, rest = split(text)
        named += [Reference(number, number, _tokens(brackets)) for number, brackets in DOTTED.findall(rest)]
        for reference in named:
            self._named.setdefault(reference.number, []).append(reference)
        self._shown = frozenset(TOKEN.findall(text))
        self._brackets = "".join(text.split())

    def has(self, reference: Reference) -> bool:
        """Whether the passage is this place, holds it or lies within it, or names it.

        A paragraph below the passage's own citation counts where its designators stand in the text, or where the text has
        none at all, as in a document that lost them.
        """
        if any(self._within(reference, own) for own in self._own):
            return True
        if not reference.number:
            return reference.brackets in self._brackets
        depth = len(reference.designators)
        return any(
            named.designators[:depth] == reference.designators and _agree(named, reference)
            for named in self._named.get(reference.number, ())
        )

    def _within(self, reference: Reference, own: Reference) -> bool:
        if not reference.number:
            return reference.brackets in own.brackets or self._below(reference, own)
        if not _agree(reference, own):
            return False
        if own.number.startswith(f"{reference.number}."):  # part 15 of a passage from 15.247
            return not reference.designators
        depth = len(reference.designators)
        return own.number == reference.number and (
            own.designators[:depth] == reference.designators or self._below(reference, own)
        )

    def _below(self, reference: Reference, own: Reference) -> bool:
        depth = len(own.designators)
        deeper = reference.designators[depth:]
        return (
            bool(deeper)
            and reference.designators[:depth] == own.designators
            and (not self._shown or self._shown.issuperset(deeper))
        )


def _agree(one: Reference, other: Reference) -> bool:
    return not (one.title and other.title) or one.title == other.title
