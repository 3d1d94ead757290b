"""Prints pages for the PDF loader's tests: words and lines at places, in points from the lower left corner."""

from collections.abc import Sequence
from dataclasses import dataclass, field

_WIDTH, _HEIGHT = 600, 800


@dataclass
class Sheet:
    """One page. What is put on it first comes first in the file, as it does in print."""

    drawn: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, text: str, *, size: float = 9) -> None:
        shown = text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
        self.drawn.append(f"BT /F1 {size} Tf {x} {y} Td ({shown}) Tj ET")

    def paragraph(self, x: float, y: float, lines: Sequence[str]) -> float:
        """Lines below each other; the height of the next."""
        for line in lines:
            self.text(x, y, line)
            y -= 11
        return y

    def line(self, x: float, y: float, to_x: float, to_y: float) -> None:
        self.drawn.append(f"0.6 w {x} {y} m {to_x} {to_y} l S")

    def table(self, x: float, y: float, widths: Sequence[float], heads: Sequence[str], rows: Sequence[Sequence[str]]) -> float:
        """A table as the CFR prints it: lines above, below the heads, at the foot and between columns; its foot's height."""
        right, top, size, step = x + sum(widths), y, 6, 8
        heads_foot = top - step - 4
        foot = heads_foot - step * len(rows) - 4
        for height in (top, heads_foot, foot):
            self.line(x, height, right, height)
        left = x
        for column, width in enumerate(widths):
            if column:
                self.line(left, top, left, foot)
            self.text(left + 2, top - step, heads[column], size=size)
            for number, row in enumerate(rows):
                if row[column]:
                    self.text(left + 2, heads_foot - step * (number + 1), row[column], size=size)
            left += width
        return foot

    def boxes(self, x: float, y: float, widths: Sequence[float], rows: Sequence[Sequence[str]]) -> float:
        """A table as word processors draw it: a box around each cell."""
        right, step = x + sum(widths), 14
        for number in range(len(rows) + 1):
            self.line(x, y - step * number, right, y - step * number)
        left = x
        for column, width in enumerate([*widths, 0]):
            self.line(left, y, left, y - step * len(rows))
            if column < len(widths):
                for number, row in enumerate(rows):
                    self.text(left + 2, y - step * number - 10, row[column], size=8)
            left += width
        return y - step * len(rows)


def pdf(sheets: Sequence[Sheet]) -> bytes:
    """A PDF file of the sheets."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(sheets)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(sheets)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, sheet in enumerate(sheets):
        stream = "\n".join(sheet.drawn).encode("cp1252")
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {_WIDTH} {_HEIGHT}] /Resources << /Font << /F1 3 0 R >> >> "
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
