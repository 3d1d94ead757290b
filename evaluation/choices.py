"""Questions with lettered choices: writes them, and reads which letter an answer chose. Knows nothing about who answers."""

import re
import string
from collections.abc import Sequence

import numpy as np

from evaluation.questions import Question

# "Answer: B", "the right answer is (B)"; after "Answer:" a capital A may also open a sentence, so something must end it
_STATED = (
    r"(?i:\b(?:answer|choice|option|letter)\b(?:[^.\n]{0,60}?\b(?:is|would\s+be)\b)?)\s*[:=]?\s*\(?(?P<letter>[{letters}])"
    r"(?=\s*(?:[).,:;\]]|$)|\s+(?:because|since|as|is|and|which)\b)"
)
_ONLY = r"\W*(?P<letter>[{letters}])\W*"
# "B) ..." where a sentence or a line begins, or in brackets; not the last word of a name, such as "Class B."
_STANDING = (
    r"(?:^\s*|[.:;,!?]\s+|\b(?:is|be|choose|select|pick)\s+|(?<![\w)])(?=\())\(?(?P<letter>[{letters}])[).:](?![A-Za-z0-9])"
)
_MARKS = re.compile(r"\[\d[\d,\s]*\]|[*_`]")


def order(question: Question, *, seed: int) -> list[int]:
    """In which order the choices are shown; the same for the same question and seed, whatever is asked besides it."""
    own = [ord(letter) for letter in question.text]
    return [int(place) for place in np.random.default_rng([seed, *own]).permutation(len(question.choices))]


def written(question: str, choices: Sequence[str]) -> str:
    """The question with its choices, in the order given, each behind its letter."""
    lines = [f"{letter}) {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False)]
    return "\n".join([question, *lines, "Answer with the letter of the right choice."])


def chosen(answer: str, choices: Sequence[str]) -> int | None:
    """The place of the choice an answer takes, in the order shown; None if it is unclear.

    In this order: a letter that is stated ("Answer: B") or that is all there is; the first letter with ")", "." or ":" after
    it, unless all choices stand there again, which is no choice; the choice with the greatest share of its words in the
    answer, if that is half or more and no other choice comes up to it. A letter before another choice's words is unclear.
    """
    text = _MARKS.sub("", answer).strip()
    letters = string.ascii_uppercase[: len(choices)]
    standing = list(_pattern(_STANDING, letters).finditer(text))
    read = _pattern(_STATED, letters).search(text) or _pattern(_ONLY, letters).fullmatch(text)
    if not read and not standing:
        return _nearest(text, choices)
    if not read and len({match["letter"] for match in standing}) >= max(len(letters), 3):
        return None
    read = read or standing[0]
    place = letters.index(read["letter"])
    said = _in_order(text[read.end() :].split("\n")[0])
    others = [_in_order(choice) for at, choice in enumerate(choices) if at != place]
    return None if said in others and said != _in_order(choices[place]) else place


def _nearest(text: str, choices: Sequence[str]) -> int | None:
    said = _words(text)
    shares = []
    for choice in choices:
        words = _words(choice)
        common = len(words & said)
        shares.append((common / len(words) if words else 0.0, common))
    best = max(shares)
    return shares.index(best) if best[0] >= 0.5 and shares.count(best) == 1 else None


def _words(text: str) -> set[str]:
    return set(_in_order(text))


def _in_order(text: str) -> list[str]:
    return re.findall(r"\w+(?:[.,]\d+)*", text.lower())


def _pattern(template: str, letters: str) -> re.Pattern[str]:
    return re.compile(template.replace("{letters}", letters), re.MULTILINE)
