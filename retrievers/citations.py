"""Reads and writes citations of federal rules and KDB publications. Knows nothing about documents or search."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Literal, Self

DEFAULT_TITLE = 47

Kind = Literal["letter", "number", "roman", "capital"]


@dataclass(frozen=True, slots=True)
class Citation:
    """A place in the Code of Federal Regulations, or a KDB publication if `kdb` is set (six digits).

    `section` is written in full ("15.247"), is "Appendix A" for an appendix to the part, and is "" for the whole part.
    `paragraphs` are the designators without their brackets, outermost first. `parse(str(citation)) == citation`.
    """

    title: int = DEFAULT_TITLE
    part: str = ""
    section: str = ""
    paragraphs: tuple[str, ...] = ()
    kdb: str = ""

    def __str__(self) -> str:
        if self.kdb:
            return f"KDB {self.kdb}"
        if not self.section:
            return f"{self.title} CFR part {self.part}"
        if self.is_appendix:
            return f"{self.title} CFR part {self.part} {self.section}"
        return f"{self.title} CFR {self.section}" + "".join(f"({token})" for token in self.paragraphs)

    @property
    def is_appendix(self) -> bool:
        return self.section.startswith("Appendix ")

    @property
    def has_paragraphs(self) -> bool:
        """Whether paragraphs below this place are cited by designators."""
        return bool(self.section) and not self.is_appendix

    @property
    def whole(self) -> Self:
        """The same section, appendix, part or publication without its paragraphs."""
        return replace(self, paragraphs=())


def parse(text: str) -> Citation:
    """Read one citation and nothing else: "47 CFR 15.247(b)(3)", "§ 97.313", "15.19", "part 15", "KDB 996369".

    Raises ValueError if the text is anything else.
    """
    trimmed = text.strip().rstrip(".:;,")
    match = _ANY.fullmatch(trimmed)
    found = list(_read(match)) if match else []
    # "15.247(whatever)" reads as 15.247 with something after it, which is no citation
    if len(found) != 1 or (match and match["section"] and _end(match) != len(trimmed)):
        raise ValueError(f"{text!r} is not a citation")
    return found[0]


@lru_cache(maxsize=8192)
def read(text: str) -> Citation | None:
    """What `parse` reads, or None if the text is no citation; for what metadata holds, which repeats itself."""
    try:
        return parse(text)
    except ValueError:
        return None


def find(text: str) -> list[Citation]:
    """All citations in free text, in their order, each once.

    A bare number counts only where it does not read as a quantity: see `_is_bare_section`.
    """
    found: dict[Citation, None] = {}
    previous: re.Match[str] | None = None  # the section before, which "15.207 and 15.209" goes on from
    title, plural = DEFAULT_TITLE, False
    for match in _ANY.finditer(text):
        if not match["section"]:
            found.update(dict.fromkeys(_read(match)))
            continue
        goes_on = previous is not None and _LINK.fullmatch(text, _end(previous), match.start()) is not None
        sign = (match["sign"] or "").lower()
        if match["title"] or sign:
            plural = sign in _PLURALS
        elif not (goes_on and plural and not _is_quantity(match)) and not _is_bare_section(match):
            previous = None
            continue
        if match["title"] or not goes_on:
            title = int(match["title"] or DEFAULT_TITLE)
            plural = plural and bool(sign)
        found.update(dict.fromkeys(replace(citation, title=title) for citation in _read(match)))
        previous = match
    return list(found)


def heading(text: str, *, title: int = DEFAULT_TITLE) -> Citation | None:
    """What a heading line opens: "§ 15.247 Operation within ...", "PART 15—...", "Appendix A to Part 15—..."; or None.

    `title` is taken where the line does not name its own. A number without "§", "Section" or "CFR" opens nothing,
    since manuals number their chapters like that.
    """
    match = _HEADING.match(text)
    if match is None:
        return None
    number = int(match["title"] or title)
    if match["section"]:
        return Citation(number, match["section"].rpartition(".")[0], match["section"])
    if match["appendix"]:
        return Citation(number, match["of"], f"Appendix {match['appendix']}")
    return Citation(number, match["part"])


def opening(text: str) -> Citation | None:
    """The full cite that a paragraph begins with, set off by a colon or dash ("47 CFR 15.19(a)(3): ..."); or None."""
    match = _OPENING.match(text)
    return read(match[1]) if match else None


def of_section(section: str, *, part: str, title: int = DEFAULT_TITLE) -> Citation:
    """The citation of a section as data files name it ("15.247", "97 Appendix 1 to Part 97"); else that of its part."""
    if match := _APPENDIX_NAME.search(section):
        return Citation(title, part, f"Appendix {match[1]}")
    if re.fullmatch(_SECTION, section):
        return Citation(title, section.rpartition(".")[0], section)
    return Citation(title, part)


@cache
def ordinals(token: str) -> tuple[tuple[Kind, int], ...]:
    """The ways to read a paragraph designator, each with its place in the row.

    "i" is the ninth letter and the first roman number. Letters go on after z with aa, bb, cc, as in the CFR. Empty if
    the token is no designator.
    """
    if token.isascii() and token.isdigit():
        return (("number", int(token)),) if token[0] != "0" and len(token) <= 3 else ()
    lower = token.lower()
    if not (token.isascii() and token.isalpha()) or token not in {lower, token.upper()}:
        return ()
    readings: list[tuple[Kind, int]] = []
    if len(set(token)) == 1 and len(token) <= 3:
        place = ord(lower[0]) - ord("a") + 1 + 26 * (len(token) - 1)
        readings.append(("letter" if token == lower else "capital", place))
    if token == lower and (value := _ROMANS.get(token)):
        readings.append(("roman", value))
    return tuple(readings)


def _romans() -> dict[str, int]:
    tens = ["", "x", "xx", "xxx", "xl", "l", "lx", "lxx", "lxxx", "xc"]
    units = ["", "i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix"]
    return {tens[n // 10] + units[n % 10]: n for n in range(1, 100)}


_ROMANS = _romans()

# Sections of other titles have letters and hyphens: 10 CFR 50.55a, 48 CFR 52.203-13, 41 CFR 101-26.100.
# The hyphen must not swallow a range such as 15.201-15.209.
_PART = r"\d{1,4}(?:-\d{1,3})?[a-z]?"
_SECTION = rf"{_PART}\.\d{{1,5}}(?:[a-z](?![A-Za-z0-9]))?(?:-\d{{1,3}}(?![\w.]))?(?!\d)"
_CFR = r"(?P<title>\d{1,2})\s*C\.?\s?F\.?\s?R\.?\s*"
_SIGN = r"(?P<sign>§§?|\b(?:sections?|secs?\.|rules?)(?=\s))\s*"
_DESIGNATORS = r"(?:\([A-Za-z0-9]{1,7}\)(?:\s(?=\([A-Za-z0-9]{1,7}\)))?)*"
# "part 1 of the form" is no part of the rules, "part 15 of this chapter" is
_OF_A_FORM = r"\s+of\s+(?!(?:the\s+)?(?:title|chapter|this|\d+\s+cfr|cfr|fcc|commission|rules)\b)"
_ANY = re.compile(
    rf"""
    \bKDB\s*(?:publication\s*|pub\.?\s*)?(?:no\.?\s*|number\s*|\#\s*)?(?P<kdb>\d{{6}})\b
  | (?:\b(?P<appendix_title>\d{{1,2}})\s*CFR\s+)?
    \bappendix\s+(?P<appendix>[A-Za-z0-9]{{1,4}})\s+(?:to|of)\s+part\s+(?P<of>{_PART})\b
  | (?:\b(?P<part_title>\d{{1,2}})\s*C\.?F\.?R\.?\s+)?\bpart(?P<several>s)?\s+(?P<part>{_PART})\b(?!\.\d|{_OF_A_FORM})
    (?:,?\s+appendix\s+(?P<part_appendix>[A-Za-z0-9]{{1,4}})\b)?
    (?P<more>(?:(?:,\s*(?:and|or)?|\s+(?:and|or))\s*{_PART}\b(?![.\w]))*)
  | (?<![\w.$§/])(?:\b{_CFR})?(?:{_SIGN})?(?P<section>(?<![\w.,]){_SECTION})(?P<paragraphs>{_DESIGNATORS})
    """,
    re.VERBOSE | re.IGNORECASE,
)
_LINK = re.compile(r"\s*(?:,\s*(?:and|or)?|and|or|through|to|[-\u2013—])\s*")
_HEADING = re.compile(
    rf"""[\s\#*]*(?:
      (?:{_CFR}|(?:§|[Ss]ection|[Ss]ec\.)\s*){{1,2}}(?P<section>{_SECTION})\.?(?:[*\s]*[—\u2013:]\s*|[*\s]+-?\s*)(?=[A-Z\[“"(0-9])
    | (?:APPENDIX|Appendix)\s+(?P<appendix>[A-Za-z0-9]{{1,4}})\s+(?:to|TO)\s+(?:part|Part|PART)\s+(?P<of>{_PART})\b
    | (?:PART|Part)\s+(?P<part>{_PART})\s*[—\u2013:-]
    )""",
    re.VERBOSE,
)
_OPENING = re.compile(
    rf"\s*[*_`]*((?:\d{{1,2}}\s*CFR\s*§?\s*|§\s*)(?:{_SECTION}{_DESIGNATORS}|part\s+{_PART})|KDB\s+\d{{6}})[*_`]*\s*[:—\u2013]"
)
_APPENDIX_NAME = re.compile(r"\bappendix\s+([A-Za-z0-9]{1,4})\b", re.IGNORECASE)

_UNIT = (
    r"(?:[kMGT]?Hz|(?:kilo|mega|giga|tera)?hertz|[kmu\u00b5\u03bc]?W\b|(?:kilo|milli|micro)?watts?|[kmu\u00b5\u03bc]?V(?:/m)?\b|(?:milli|micro)?volts?"
    r"|mA\b|amp(?:ere)?s?\b|dB\w*|decibels?|[cmk]?m\b|(?:centi|milli|kilo)?met(?:er|re)s?|f(?:ee|oo)?t\b|inch(?:es)?|miles?"
    r"|(?:milli|micro|nano)?sec(?:ond)?s?\b|[mnu\u00b5\u03bc]?s\b|minutes?|min\b|hours?|h\b|days?|years?|percent|%|°|degrees?|ppm|[kMG]?bps"
    r"|[kMG]bit|bits?\b|bytes?|baud|times\b|x\b|\u00d7|:\s?\d)"
)
_QUANTITY = re.compile(rf"(?:\s*(?:,|-|\u2013|—|/|±|\band\b|\bor\b|\bto\b)\s*\d[\d.]*)*[\s-]*{_UNIT}")
_NOT_A_RULE = re.compile(
    r"(?:\b(?:versions?|v|figures?|figs?\.?|tables?|ieee|releases?|approximately|about)\s*"
    r"|[<>=≤≥±~+\d][\s\u2013-]*|\w-)$",
    re.IGNORECASE,
)
_RANGE = re.compile(r"\s*[-\u2013—/]\s*\d|\.\d")
_PLURALS = {"§§", "sections", "secs.", "rules"}


def _read(match: re.Match[str]) -> Iterator[Citation]:
    if match["kdb"]:
        yield Citation(kdb=match["kdb"])
    elif match["appendix"]:
        title = int(match["appendix_title"] or DEFAULT_TITLE)
        yield Citation(title, match["of"], f"Appendix {match['appendix'].upper()}")
    elif match["part"]:
        title = int(match["part_title"] or DEFAULT_TITLE)
        first, *others = re.findall(_PART, f"{match['part']} {match['more']}")
        if match["several"] and "-" in first:  # "parts 15-18" is a range, "41 CFR part 101-26" is one part
            first, _, last = first.partition("-")
            others.insert(0, last)
        appendix = f"Appendix {match['part_appendix'].upper()}" if match["part_appendix"] else ""
        yield Citation(title, first, appendix)
        for part in others:
            yield Citation(title, part)
    else:
        section = match["section"]
        title = int(match["title"] or DEFAULT_TITLE)
        yield Citation(title, section.rpartition(".")[0], section, _tokens(match["paragraphs"]))


def _tokens(brackets: str) -> tuple[str, ...]:
    """The designators up to the first bracket that holds something else."""
    tokens: list[str] = []
    for token in re.findall(r"\((\w+)\)", brackets):
        if not ordinals(token):
            break
        tokens.append(token)
    return tuple(tokens)


def _end(match: re.Match[str]) -> int:
    """Where the citation really ends: before a bracket that is no designator."""
    if not match["section"]:
        return match.end()
    brackets = match["paragraphs"]
    position = 0
    for token in re.finditer(r"\s?\((\w+)\)", brackets):
        if not ordinals(token[1]):
            break
        position = token.end()
    return match.start("paragraphs") + position


def _is_quantity(match: re.Match[str]) -> bool:
    return _QUANTITY.match(match.string, match.end()) is not None


def _is_bare_section(match: re.Match[str]) -> bool:
    """Whether a number without "§", "section" or "CFR" is a section rather than a frequency, a power or a version.

    With a lower-case paragraph attached (2.4(a)) it is one. Without, the section number needs two digits or more and
    no leading zero ("2.4" and "5.8" are frequencies, "0.25" is a fraction), no unit may follow, also not after a list
    or range ("146.52 and 146.58 MHz"), and IEEE's 802.x is never meant.
    """
    part, _, number = match["section"].rpartition(".")
    tokens = _tokens(match["paragraphs"])
    if (
        not part.isdigit()
        or part[0] == "0"
        or _is_quantity(match)
        or _NOT_A_RULE.search(match.string[max(0, match.start() - 20) : match.start()])
    ):
        return False
    if tokens and tokens[0].islower():
        return True
    if _RANGE.match(match.string, match.end()):
        return False
    return number.isdigit() and 2 <= len(number) <= 4 and number[0] != "0" and part != "802"
