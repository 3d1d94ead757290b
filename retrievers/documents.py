"""What a document and a passage are. Every loader makes the first, the splitter makes the second from it."""

from dataclasses import dataclass, field
from typing import Literal

from langchain_core.documents import Document as Passage
from pydantic import BaseModel, computed_field

from retrievers import citations


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a document that stands together: characters `start` to `end` of the document's text.

    `citation` is the paragraph's full cite ("47 CFR 15.247(b)(3)") or "" where the document gives none; `headings` is the
    way down to it, outermost first, a heading's own text last; `page` counts from 1 and is None where the format has no
    pages; `caption` is what a table is called and `notes` what is noted below it, which stand in paragraphs of their own,
    too.
    """

    start: int
    end: int
    kind: Literal["heading", "paragraph", "table"] = "paragraph"
    citation: str = ""
    headings: tuple[str, ...] = ()
    page: int | None = None
    caption: str = ""
    notes: str = ""


@dataclass(frozen=True, slots=True)
class SourceDocument:
    """One unit of ingestion: a file, or one section of a file that holds many.

    `uri` identifies it across runs (absolute path, and "#section" where a file holds many); `source` is what users see and filter
    on. `blocks` are in order, do not overlap, and together hold every non-space character of `text`.
    """

    uri: str
    source: str
    text: str
    blocks: tuple[Block, ...] = field(repr=False)
    title: str = ""
    part: str = ""
    section: str = ""
    edition: str = ""


class PassageMetadata(BaseModel):
    """What is stored beside each passage's exact text (`page_content`).

    `start` and `end` are the passage's character span in the document's text; `heading` is the heading path as one line;
    `document` is the document's uri, `document_hash` the hash of its content, `document_passages` how many passages it has, and
    `ordinal` which of them this is.
    """

    citation: str
    heading: str
    title: str
    part: str
    section: str
    source: str
    page: int | None
    edition: str
    start: int
    end: int
    document: str
    document_hash: str
    document_passages: int
    ordinal: int

    @computed_field
    def place(self) -> str:
        """The section, appendix, part or publication that `citation` lies in; editions are editions of a place."""
        citation = citations.read(self.citation)
        return str(citation.whole) if citation else ""


__all__ = ["Block", "Passage", "PassageMetadata", "SourceDocument"]
