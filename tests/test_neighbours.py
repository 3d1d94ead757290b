"""Neighbours: what a found passage leans on is looked up, marked, and cut to what matters."""

from collections.abc import Sequence
from typing import Any

from retrievers import definitions, neighbours
from retrievers.citations import Citation
from retrievers.documents import Passage

HEADING = "Subpart B > § 300.9 Limits"
RULE = "47 CFR 300.9"


def passage(text: str, ordinal: int, citation: str, **metadata: Any) -> Passage:
    start = 1000 * ordinal
    about = {
        "citation": citation,
        "heading": HEADING,
        "part": "300",
        "document": "/rules",
        "ordinal": ordinal,
        "start": start,
        "end": start + len(text),
    }
    return Passage(id=f"{citation} {ordinal}", page_content=text, metadata=about | metadata)


OPENING = "(b) The output of a kettle is limited as follows. Other devices see elsewhere.\nMore words."
PARENT = passage(OPENING, 0, f"{RULE}(b)")
HIT = passage("(3) For kettles with a lid: 2 litres, measured as § 300.31 says.", 1, f"{RULE}(b)(3)")
TARGET = passage("Measurements are taken at sea level.", 0, "47 CFR 300.31", document="/other")
TERMS = passage(
    "(a) Lid. What closes a vessel from above.\n(b) Kettle. A vessel for boiling water.\n(c) Pan means a flat vessel.",
    0,
    "47 CFR 300.3",
    heading="§ 300.3 Definitions",
    document="/terms",
)


def found(question: str, hits: Sequence[Passage], limit: int = 9) -> list[Passage]:
    held = {"47 CFR 300.31": [TARGET]}
    documents = {"/rules": [PARENT, HIT]}

    def cited(citation: Citation) -> Sequence[Passage]:
        return held.get(str(citation), [])

    return neighbours.find(
        question,
        [each.model_copy(deep=True) for each in hits],
        limit,
        cited=cited,
        document=lambda uri: documents.get(uri, []),
        glossary=lambda part: definitions.entries([TERMS]) if part == "300" else [],
    )


def test_parent_reference_and_terms() -> None:
    """A paragraph brings the words it goes on from, the place it refers to, and the terms it uses, in this order."""
    near = found("How much may it hold?", [HIT])
    assert [(each.metadata["relation"], each.metadata["citation"]) for each in near] == [
        ("parent", f"{RULE}(b)"),
        ("reference", "47 CFR 300.31"),
        ("definition", "47 CFR 300.3"),
        ("definition", "47 CFR 300.3"),
    ]
    assert near[0].page_content == "(b) The output of a kettle is limited as follows."
    assert [each.page_content for each in near[2:]] == [
        "(b) Kettle. A vessel for boiling water.",
        "(a) Lid. What closes a vessel from above.",
    ]
    assert all(each.metadata["match"] == "neighbour" for each in near)


def test_span_is_exact() -> None:
    """What is cut out of a passage carries its own span in the document, also below a table's repeated head."""
    (kettle,) = [each for each in found("", [HIT]) if "boiling" in each.page_content]
    offset = TERMS.page_content.index("(b) Kettle")
    assert (kettle.metadata["start"], kettle.metadata["end"]) == (offset, offset + len(kettle.page_content))
    headed = TERMS.model_copy(deep=True)
    headed.page_content = "Head\n" + TERMS.page_content
    entry = definitions.entries([headed])[1]
    assert headed.page_content[entry.start :].startswith("(b) Kettle")


def test_a_term_has_its_own_cite() -> None:
    """A term is cited by its own paragraph where its passage begins with another of the same level."""
    terms = TERMS.model_copy(deep=True)
    terms.metadata["citation"] = "47 CFR 300.3(a)"
    near = neighbours.find(
        "pans and lids",
        [HIT.model_copy(deep=True)],
        9,
        cited=lambda _: [],
        document=lambda _: [],
        glossary=lambda _: definitions.entries([terms]),
    )
    cites = {each.page_content[:9]: each.metadata["citation"] for each in near}
    assert cites == {"(a) Lid. ": "47 CFR 300.3(a)", "(b) Kettl": "47 CFR 300.3(b)", "(c) Pan m": "47 CFR 300.3(c)"}


def test_terms_of_the_question_first() -> None:
    """A term that the question itself uses comes before those of the passage."""
    near = found("May I use pans?", [HIT], limit=3)
    assert [each.page_content[:7] for each in near if each.metadata["relation"] == "definition"] == ["(c) Pan"]


def test_limit_and_repetition() -> None:
    """No more than the limit, and nothing that is there already."""
    assert len(found("", [HIT], limit=1)) == 1
    assert found("", [HIT], limit=0) == []
    assert "parent" not in [each.metadata["relation"] for each in found("", [HIT, PARENT])]


def test_no_citation_no_neighbour() -> None:
    """A passage without a cite of its own is left as it is."""
    assert found("", [passage("Nothing of note.", 5, "", heading="", part="")]) == []


def test_entries_only_under_definitions() -> None:
    """Sentences that look like definitions count only where the heading says that terms are defined."""
    assert definitions.entries([passage("(a) Lid. What closes a vessel.", 0, RULE)]) == []
    assert definitions.entries([passage("no term stands here", 0, RULE, heading="Definitions")]) == []
    assert [entry.term for entry in definitions.entries([TERMS])] == ["Lid", "Kettle", "Pan"]
