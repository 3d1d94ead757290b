"""Section numbers and paragraphs: what a sentence names, and which passage has it."""

import time

import pytest

from chains import references
from chains.references import References


def has(citation: str, text: str, said: str) -> bool:
    found, _ = references.split(said)
    assert found, said
    passage = References(citation, text)
    return all(passage.has(reference) for reference in found)


@pytest.mark.parametrize(
    ("text", "found", "rest"),
    [
        ("See 47 CFR 15.247(b)(3) for 1 watt.", [("15.247", "(b)(3)")], "See for 1 watt."),
        ("Under § 97.119(a) it must.", [("97.119", "(a)")], "Under it must."),
        ("Sections 15.207 and 15.209 apply to 2 devices.", [("15.207", ""), ("15.209", "")], "apply to 2 devices."),
        ("Part 15 says so.", [("15", "")], "says so."),
        ("By paragraph (b)(3) of it.", [("", "(b)(3)")], "By of it."),
        ("15.407(a)(1) holds.", [("15.407", "(a)(1)")], "holds."),
        ("Article 5(2) and Annex IV", [("5", "(2)"), ("IV", "")], "and"),
        ("Clause 4.3.2 and 4.3.3", [("4.3.2", ""), ("4.3.3", "")], "and"),
        ("KDB 996369 asks", [("996369", "")], "asks"),
        ("At 2.4 GHz, 15 parts per million", [], "At 2.4 GHz, 15 parts per million"),
    ],
)
def test_split(text: str, found: list[tuple[str, str]], rest: str) -> None:
    """References are read in the forms that rules use, and their numbers are no figures."""
    named, without = references.split(text)
    assert [(reference.number, reference.brackets) for reference in named] == found
    assert " ".join(without.split()) == rest


@pytest.mark.parametrize(
    ("citation", "text", "said"),
    [
        ("47 CFR 15.247(b)(3)", "", "47 CFR 15.247(b)(3)"),
        ("47 CFR 15.247(b)(3)", "", "§ 15.247(b)"),  # above it
        ("47 CFR 15.247(b)(3)", "", "Section 15.247"),
        ("47 CFR 15.247(b)(3)", "", "part 15"),
        ("47 CFR 15.247(b)(3)", "", "paragraph (b)(3)"),
        ("47 CFR 15.247(b)", "(3) For other systems: 1 watt.", "15.247(b)(3)"),  # below it
        ("47 CFR 15.247(b)", "No designators here.", "15.247(b)(3)"),
        ("47 CFR 15.247", "as § 15.209(a) says", "section 15.209"),
        ("47 CFR 15.247", "see paragraph (d) of this section", "paragraph (d)"),
        ("Article 5", "The second paragraph.", "Article 5"),
        ("Regulation 7", "as Annex IV lists", "Annex IV"),
        ("47 CFR part 15", "47 CFR 15.19: a label", "§ 15.19"),
    ],
)
def test_has(citation: str, text: str, said: str) -> None:
    """A passage has its own citation, what is above and below it, and what it names."""
    assert has(citation, text, said)


@pytest.mark.parametrize(
    ("citation", "text", "said"),
    [
        ("47 CFR 15.247(b)(3)", "", "§ 15.249"),
        ("47 CFR 15.247(b)(3)", "", "§ 15.247(c)"),
        ("47 CFR 15.247(b)", "(3) For other systems: 1 watt.", "15.247(b)(9)"),  # a paragraph that is not there
        ("47 CFR 15.247(b)(3)", "", "part 97"),
        ("47 CFR 15.247(b)(3)", "", "48 CFR 15.247"),  # another title
        ("47 CFR 15.247", "as § 15.209 says", "§ 15.209(a)"),  # more than the passage names
        ("47 CFR part 15", "a label", "§ 15.19"),
        ("Article 15", "2.4 GHz", "Article 2"),
    ],
)
def test_has_not(citation: str, text: str, said: str) -> None:
    """It has no other section, no paragraph beside it, and none that was made up."""
    assert not has(citation, text, said)


@pytest.mark.parametrize(
    "text", ["§ " * 30_000, "15.247(a)" * 10_000, "(a)" * 30_000, "sections 1" + ", 1" * 30_000, "1." * 40_000]
)
def test_hostile_references_cost_no_time(text: str) -> None:
    """No run of signs and brackets makes reading it take long."""
    started = time.perf_counter()
    References("47 CFR 15.247", text)
    assert time.perf_counter() - started < 2
