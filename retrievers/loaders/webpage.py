"""Reads HTML files: headings, paragraphs, lists and tables, without scripts, styles and menus. Fetches nothing."""

import warnings
from collections.abc import Iterator
from pathlib import Path

from bs4 import BeautifulSoup, MarkupResemblesLocatorWarning, XMLParsedAsHTMLWarning
from bs4.element import NavigableString, PreformattedString, Tag

from errors import DocumentError
from retrievers.documents import SourceDocument
from retrievers.loaders.pieces import LoadFailure, Origin, Piece, assemble
from retrievers.loaders.plain import title_number
from retrievers.loaders.publications import arranged
from retrievers.loaders.tables import Cell, Row, markdown

_UNSEEN = ["script", "style", "noscript", "template", "svg", "nav", "head", "iframe", "object", "select", "button"]
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = {
    *_HEADINGS, "address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "dialog",
    "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "header", "hr", "html", "li", "main", "ol",
    "p", "pre", "section", "summary", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "ul",
}  # fmt: skip
_NOTES = ["li", "p", "dd", "aside", "div"]
_BEARERS = ["p", "li", "dd", "blockquote"]
_LONGEST_NOTE = 2000  # characters; what is longer is a place to go to and no note
_DEEPEST = 400  # nesting that no page has and no stack should bear


def load(path: Path, source: str, uri: str) -> Iterator[SourceDocument | LoadFailure]:
    """One document. Its title is the first heading's, else that of the page."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)  # XHTML is read as the HTML it also is
        warnings.simplefilter("ignore", MarkupResemblesLocatorWarning)  # and a page that holds but a file's name as text
        soup = BeautifulSoup(path.read_bytes(), "lxml")
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    for unseen in soup.find_all(_UNSEEN):
        unseen.decompose()
    _place_notes(soup)
    pieces = list(_pieces(soup.body or soup, 0))
    if not pieces:
        raise DocumentError("no text is in it")
    if any(piece.kind == "heading" for piece in pieces):
        title = ""
    number = title_number(" ".join(piece.text for piece in pieces[:3]))
    origin = Origin(uri, source, title=title, title_number=number)
    yield assemble(*arranged(pieces, origin, path.name), separator="\n\n")


def _place_notes(soup: BeautifulSoup) -> None:
    """Move each footnote that a raised mark links to behind the paragraph or table that bears the mark."""
    order = {id(tag): number for number, tag in enumerate(soup.find_all(True))}
    named = {
        str(tag.get("id") or tag.get("name")): tag
        for tag in reversed(soup.find_all(lambda tag: tag.get("id") or tag.get("name")))
    }
    last: dict[int, Tag] = {}  # the last note behind each bearer
    moved: set[int] = set()
    for mark in soup.find_all("sup"):
        link = mark.find("a", href=True) or mark.find_parent("a", href=True)
        target = named.get(str(link["href"]).removeprefix("#")) if isinstance(link, Tag) else None
        note = target if target is None or target.name in _NOTES else target.find_parent(_NOTES)
        bearer = mark.find_parent("table") or mark.find_parent(_BEARERS)
        if note is None or bearer is None or id(note) in moved or order[id(note)] < order[id(bearer)] or bearer in note.parents:
            continue
        if len(note.get_text()) <= _LONGEST_NOTE and note.find(list(_HEADINGS)) is None:
            note.name = "p"
            last.get(id(bearer), bearer).insert_after(note.extract())
            last[id(bearer)] = note
            moved.add(id(note))


def _pieces(element: Tag, depth: int) -> Iterator[Piece]:
    """The pieces of an element: its block children's, and what text stands between them."""
    if depth > _DEEPEST:
        raise DocumentError("its elements are nested too deeply")
    loose: list[str] = []
    for child in element.children:
        if isinstance(child, Tag) and (child.name in _BLOCKS or child.find(_BLOCKS) is not None):
            yield from _paragraph(loose)
            loose = []
            yield from _block(child, depth + 1)
        else:
            loose.append(_text(child))
    yield from _paragraph(loose)


def _block(element: Tag, depth: int) -> Iterator[Piece]:
    if element.name in _HEADINGS:
        if text := _inline(element):
            yield Piece(text, "heading", _HEADINGS[element.name])
    elif element.name == "table" and element.find(["table", *_HEADINGS]) is None:
        yield from _table(element)
    elif element.name == "pre":
        if text := element.get_text().strip("\n"):
            yield Piece(text)
    else:
        yield from _pieces(element, depth)


def _paragraph(runs: list[str]) -> Iterator[Piece]:
    lines = [" ".join(line.split()) for line in "".join(runs).split("\v")]
    if text := "\n".join(line for line in lines if line):
        yield Piece(text)


def _table(element: Tag) -> Iterator[Piece]:
    """The caption and the table; one column or one row is no table but layout."""
    caption = _inline(element.caption) if element.caption is not None else ""
    if caption:
        yield Piece(caption, tracked=False)
    rows = []
    for line in element.find_all("tr"):
        cells = line.find_all(["th", "td"])
        header = bool(cells) and (line.find_parent("thead") is not None or all(cell.name == "th" for cell in cells))
        rows.append(Row([Cell(_inline(c), _span(c, "colspan"), _span(c, "rowspan")) for c in cells], header))
    if len(rows) > 1 and max(len(row.cells) for row in rows) > 1:
        if text := markdown(rows):
            yield Piece(text, "table", caption=caption)
    else:
        for row in rows:
            yield from (Piece(cell.text) for cell in row.cells if cell.text)


def _span(cell: Tag, name: str) -> int:
    value = str(cell.get(name, "1"))
    return int(value) if value.isdecimal() and len(value) < 5 else 1


def _inline(element: Tag) -> str:
    return " ".join(_text(element).split())


def _text(node: object) -> str:
    """Text as written, a vertical tab for a line break, "^2" for a raised and "_2" for a lowered 2."""
    if isinstance(node, PreformattedString):  # comments, declarations
        return ""
    if isinstance(node, NavigableString):
        return str(node).replace("\v", " ")
    if not isinstance(node, Tag):
        return ""
    if node.name == "br":
        return "\v"
    inner = "".join(_text(child) for child in node.children)
    if node.name in {"sup", "sub"} and inner.strip():
        return ("^" if node.name == "sup" else "_") + inner.strip()
    return f" {inner} " if node.name in _BLOCKS else inner
