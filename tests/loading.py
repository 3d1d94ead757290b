"""Makes files for the loaders' tests and looks at what the loaders make of them."""

from collections.abc import Sequence
from pathlib import Path

from retrievers.documents import SourceDocument
from retrievers.loaders import LoadFailure, load


def loaded(path: Path) -> list[SourceDocument | LoadFailure]:
    return list(load(path, root=path))


def document(path: Path) -> SourceDocument:
    (read,) = loaded(path)
    assert isinstance(read, SourceDocument), read
    check(read)
    return read


def reason(path: Path) -> str:
    (failure,) = loaded(path)
    assert isinstance(failure, LoadFailure), failure
    assert "\n" not in failure.reason
    return failure.reason


def check(read: SourceDocument) -> None:
    """The contract of blocks: in order, apart, trimmed, and nothing visible outside of them."""
    position = 0
    for block in read.blocks:
        text = read.text[block.start : block.end]
        assert not read.text[position : block.start].strip()
        assert text
        assert text == text.strip()
        position = block.end
    assert not read.text[position:].strip()


def blocks(read: SourceDocument) -> list[tuple[str, str, str]]:
    """Kind, citation (without "47 CFR") and text of each block."""
    return [(block.kind, block.citation.removeprefix("47 CFR "), read.text[block.start : block.end]) for block in read.blocks]


def cites(read: SourceDocument) -> list[str]:
    return [citation for _, citation, _ in blocks(read)]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def pdf(pages: Sequence[Sequence[str]]) -> bytes:
    """A PDF file with these lines of text on its pages."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, lines in enumerate(pages):
        shown = "".join(f"({line.replace('(', chr(92) + '(').replace(')', chr(92) + ')')}) Tj T*\n" for line in lines)
        stream = f"BT /F1 10 Tf 12 TL 50 780 Td\n{shown}ET".encode("cp1252")
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Resources << /Font << /F1 3 0 R >> >> "
            f"/Contents {5 + 2 * number} 0 R >>".encode(),
            b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        ]
    out = bytearray(b"%PDF-1.7\n")
    offsets = []
    for number, content in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    return bytes(out)
