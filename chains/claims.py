"""What a sentence says that code can check: figures, quotations, section numbers, words and its stance. Knows no passages."""

import re
from dataclasses import dataclass

import quantities
from chains import references
from chains.references import Reference
from quantities import ALIKE, Figure, units

FEW = 3  # content words and figures; a sentence with fewer says too little to be looked for
STEM = 6  # letters; "transmitter", "transmits" and "transmission" are one word here
WORD = re.compile(r"[^\W\d_][\w'-]+")
QUOTED = re.compile(r"[\"“]([^\"“”]{3,})[\"”]")
OMISSION = re.compile(r"\s*(?:\.\.\.|\u2026|\[[^\]]*\])\s*")
ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|no|sec|fig|approx|u\.s|cf|al)|\b[A-Z])\.$", re.IGNORECASE)
ABBREVIATED = 8  # characters, the longest abbreviation with what stands before it
INTRODUCES = re.compile(r"^\s*#|:\W{0,3}$")
ENUMERATOR = re.compile(r"^\s*(?:[-*•#>]+\s+)?(?:\(?\d{1,3}[.)](?=\s|$))?")
# "According to the passages, ...", "They also mention that ...": how models begin, which no rule says
REPORTING = r"(?:states?|says?|provides?|mentions?|explains?|specif(?:y|ies)|indicates?|describes?|notes?)\b(?:\s+that\b)?"
PASSAGES = r"\b(?:the|these|this)\s+(?:(?:given|provided|cited)\s+)?(?:passages?|sources?|documents?|texts?)\b"
FRAME = re.compile(
    rf"\baccording\s+to\s+{PASSAGES}|{PASSAGES}\s+(?:also\s+)?{REPORTING}"
    rf"|^\s*(?:specifically,?\s+)?they\s+(?:also\s+)?{REPORTING}|^\s*specifically\b",
    re.IGNORECASE,
)
STOPWORDS = frozenset(
    re.findall(
        r"\w+",
        "the and for are was were that this with from which must may shall not any its has have had can will would should their "
        "there than then they them these those such into upon been being also only each other where when what who you your our "
        "his her per all one two under over between within is of to in it be or an as at by on if no up do so we us he me my am",
    )
)
STANCE = re.compile(
    r"""(?=\b[a-z]|n['\u2019]t)(?:  # looked at first: most places of a text begin no word
      (?P<neither> \bwhether\s+or\s+not\b | \bnot\s+(?:only|limited\s+to)\b | \bno\.\s*\d )
    | (?P<most> \b(?:not|no|never)\s+(?:to\s+|be\s+|have\s+)?
          (?:exceed\w* | (?:more|greater|higher|larger|longer|later|further)\b) | \bat\s+most\b | \bmaxim\w* | \bup\s+to\b
        | \b(?:less|fewer|lower|shorter)\s+than\b | \bor\s+less\b )
    | (?P<least> \b(?:not|no|never)\s+(?:be\s+|have\s+)?(?:less|fewer|lower|shorter|earlier|smaller)\b | \bat\s+least\b
        | \bminim\w* | \bexceed\w* | \b(?:more|greater|higher|larger|longer)\s+than\b | \bor\s+more\b )
    | (?P<denies> \b(?:not|no|never|none|neither|nor|cannot|without|prohibit\w*|forbid\w*)\b | n['\u2019]t\b ))""",
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Claims:
    """What a sentence claims; made by `of`."""

    figures: tuple[Figure, ...]
    quotations: tuple[str, ...]
    references: tuple[Reference, ...]
    words: frozenset[str]
    stance: frozenset[str]
    introduces: bool

    @property
    def exact(self) -> int:
        """How much of it is to be found as it is, and not by words alone."""
        return len(self.figures) + len(self.quotations) + len(self.references)

    @property
    def is_bare(self) -> bool:
        """Whether there is next to nothing to look for, as in "Yes.", in a heading, and in what introduces a list."""
        return (self.introduces or len(self.words) < FEW) and not self.exact


def of(sentence: str) -> Claims:
    """The claims of a sentence without its markers; a number in words counts where a unit follows it."""
    told = ENUMERATOR.sub("", sentence, count=1)
    named, rest = references.split(told)
    figures = {figure: None for figure in quantities.find(rest) if figure.unit or not figure.spelled}
    return Claims(
        figures=tuple(figures),
        quotations=tuple(_quotations(told)),
        references=tuple(dict.fromkeys(named)),
        words=words(FRAME.sub(" ", rest)),
        stance=stance(told),
        introduces=INTRODUCES.search(sentence) is not None,
    )


def words(text: str) -> frozenset[str]:
    """The content words of a text, cut down to their first letters; the names of units are left to the figures."""
    return frozenset(word[:STEM] for word in WORD.findall(text.lower()) if word not in STOPWORDS and word not in units.NAMES)


def stance(text: str) -> frozenset[str]:
    """Of "denies" (may not, without), "most" (must not exceed, maximum) and "least" (at least, exceeds) those the text does."""
    return frozenset(str(match.lastgroup) for match in STANCE.finditer(text)) - {"neither"}


def agree(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether two stances go together: both deny or neither does, and both set a bound on the same side, or one sets none."""
    bounds, others = one - {"denies"}, other - {"denies"}
    return ("denies" in one) == ("denies" in other) and not (bounds and others and not bounds & others)


def is_abbreviated(text: str, end: int) -> bool:
    """Whether the full stop before `end` belongs to an abbreviation."""
    return ABBREVIATION.search(text[max(0, end - ABBREVIATED) : end]) is not None


def flat(text: str) -> str:
    """In lower case, with single spaces, plain hyphens and straight quotes, to find quotations in."""
    straight = text.translate(ALIKE).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return " ".join(straight.lower().split())


def _quotations(text: str) -> list[str]:
    """The parts of each quotation between omissions."""
    parts = [part for quotation in QUOTED.findall(text) for part in OMISSION.split(quotation)]
    return [part.strip(".,; ") for part in parts if len(part.strip(".,; ")) > 2]
