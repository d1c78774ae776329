"""A CSV file of any dialect, read piece by piece as text.

Arrow infers types from the first megabyte, but whole numbers may be followed by decimals or text. So cells are read as
text, which costs nothing, and become numbers piece by piece.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from anomalyvae.tables.cells import MISSING_TEXT, decoded, encoded, is_missing, is_number, is_text, text_of
from anomalyvae.tables.dialect import HEAD, find_dialect, is_no_row
from anomalyvae.tables.layout import is_value, readable
from anomalyvae.tables.packed import open_csv, suffix_of

_BLOCK = 1 << 20  # bytes at a time


class NotNumbersError(ValueError):
    """A column that should hold plain numbers does not."""


class Count(NamedTuple):
    """The cells of a column: how many are filled, how many of these are numbers, and the first that is none."""

    filled: int
    numbers: int
    line: int
    cell: str

    def __str__(self) -> str:
        return f"{self.numbers:,} of {self.filled:,} cells are numbers; line {self.line:,} holds {self.cell[:40]!r}"


def repair(cell: str, decimal: str) -> str:
    """What to do about a cell that is not a number, as the beginning of a sentence."""
    comma = ", or decimal= (--decimal) ',' if the comma begins the decimals" if "," in cell and decimal != "," else ""
    return f"Repair the cell, or pass na= (--na) {cell!r} if it says that a value is missing{comma}"


class CsvFile:
    """A CSV file with a header line.

    ``sep``, ``decimal`` and ``encoding`` say how it is written, where its first lines leave that open. The cells ``na``
    are missing values, beside those that always are.

    Raises ValueError if the first lines are not those of a table; see :mod:`anomalyvae.tables.dialect`.
    """

    def __init__(
        self,
        path: Path,
        *,
        sep: str | None = None,
        decimal: str | None = None,
        encoding: str | None = None,
        na: Iterable[str] = (),
    ) -> None:
        with open_csv(path) as file:
            head = file.read(HEAD)
            if file.read(1):  # whole lines
                head = head[: 1 + (head.rfind(b"\n") if b"\n" in head else head.rfind(b"\r"))] or head
        self.path, self.missing = path, tuple(na)
        self.dialect = find_dialect(head, str(path), sep=sep, decimal=decimal, encoding=encoding)

    def tables(
        self, indices: Sequence[int], *, plain: Collection[int] = (), block: int = _BLOCK, as_written: bool = False
    ) -> Iterator[pa.Table]:
        """Yield the cells of some columns as text, piece by piece; missing text is null, but not ``as_written``.

        The columns have their indices as names. Lines that repeat the header, comments and empty lines are left out.
        Columns that are expected to be ``plain`` numbers come as such, which is faster.

        Raises NotNumbersError if a column is not of plain numbers, ValueError if a row has more or fewer cells than the
        header.
        """
        from pyarrow import csv as arrow_csv

        dialect, every = self.dialect, [str(index) for index in range(len(self.dialect.names))]
        chosen = [every[index] for index in indices]
        convert = arrow_csv.ConvertOptions(
            # Bytes: text that is not UTF-8 is no reason to refuse a file.
            column_types={every[index]: pa.float64() if index in plain else pa.binary() for index in indices},
            include_columns=chosen,
            null_values=MISSING_TEXT,
            strings_can_be_null=not as_written,
        )
        skipped = 0

        def handle(row: Any) -> str:
            """Skip an empty line and a comment; any other line that is no row is an error."""
            nonlocal skipped
            text = row.text.strip(f"{dialect.separator} \t\0\xa0")
            if text and not text.startswith("#"):
                return "error"
            skipped += 1
            return "skip"

        in_bytes = dialect.encoding == "utf-8" and not self._is_utf8()
        # Arrow takes each byte for a character then: what it cannot decode, it cannot hand to `handle`.
        encoding = "latin-1" if in_bytes else dialect.encoding.replace("utf-8", "utf8")  # its name in Arrow
        read = arrow_csv.ReadOptions(column_names=every, encoding=encoding, block_size=block)
        try:
            with self._opened_by_arrow() as file:
                file.read(dialect.begin)
                parse = arrow_csv.ParseOptions(delimiter=dialect.separator, invalid_row_handler=handle)
                rows = 0
                with arrow_csv.open_csv(file, read, parse, convert) as reader:
                    for batch in reader:
                        rows += len(batch)
                        yield self._rows(pa.Table.from_batches([batch]), in_bytes)
            self._refuse_swallowed(rows + skipped)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            if "CSV conversion error" in str(error):
                raise NotNumbersError(str(error)) from error
            if "Empty CSV file" in str(error):
                yield pa.table([pa.nulls(0, pa.string())] * len(chosen), chosen)
                return
            raise self._broken(error) from error

    def _opened_by_arrow(self) -> pa.NativeFile:
        packed = suffix_of(self.path) == ".csv.gz"
        return pa.PythonFile(open_csv(self.path), "r") if packed else pa.OSFile(str(self.path))

    def _rows(self, table: pa.Table, in_bytes: bool) -> pa.Table:
        """Return the cells as text, without lines that repeat the header."""
        names = [self.dialect.names[int(index)] for index in table.column_names]
        columns = [encoded(cells) if in_bytes else cells for cells in table.columns]
        table = pa.table([decoded(cells) for cells in columns], table.column_names)
        if not names or not len(table) or not is_text(table[0].type):
            return table
        header = self._is(table[0], names[0])
        if not pc.any(header).as_py():
            return table
        for cells, name in zip(table.columns[1:], names[1:], strict=True):
            header = pc.and_(header, self._is(cells, name))
        return table.filter(pc.invert(header))

    @staticmethod
    def _is(cells: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
        return pc.fill_null(pc.equal(pc.utf8_trim_whitespace(cells), name), not name)

    def count(self, index: int, fits: Callable[[str], bool] | None = None) -> Count:
        """Count the cells of a column that are numbers (or that ``fits``), and find the first that is none."""
        is_fit = fits or (lambda cell: is_number(cell, self.dialect.decimal))
        filled = numbers = 0
        first: tuple[int, str] = (0, "")
        names = list(self.dialect.names)
        for line, cells in self._lines():
            if len(cells) != len(names) or is_no_row(cells, names):
                continue
            cell = text_of(cells[index].encode("utf-8", "surrogateescape"))
            if is_missing(cell, self.missing):
                continue
            filled += 1
            if is_fit(cell):
                numbers += 1
            elif not first[0]:
                first = line, cell
        return Count(filled, numbers, *first)

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows as the standard library reads them, with the numbers of their lines."""
        dialect = self.dialect
        errors = "surrogateescape" if dialect.encoding == "utf-8" else "replace"
        with open_csv(self.path) as file:
            file.read(dialect.begin)
            reader = csv.reader(
                io.TextIOWrapper(file, dialect.encoding, errors, newline=""), delimiter=dialect.separator
            )
            line = dialect.line
            try:
                for cells in reader:
                    yield line, cells
                    line = dialect.line + reader.line_num
            except csv.Error as error:  # a cell of 128 KB
                raise ValueError(
                    f"{self.path} cannot be read as CSV: {error}, at line {line:,}. Repair or drop that line."
                ) from error

    def _refuse_swallowed(self, records: int) -> None:
        """Refuse a file in which a quote that was left open has swallowed rows; ``records`` were read."""
        if not any(b'"' in block for block in self._blocks()):
            return
        lines = [(block.count(b"\n"), block.count(b"\r")) for block in self._blocks()]
        if max(map(sum, zip(*lines, strict=True))) <= records:
            return  # no record has several lines
        width = len(self.dialect.names)
        for line, cells in self._lines():
            for cell in cells:
                inner = cell.splitlines()[1:-1]
                rows = (part.split(self.dialect.separator) for part in inner)
                if width > 1 and any(len(row) == width and 2 * sum(map(is_value, row)) >= width for row in rows):
                    raise ValueError(
                        f"{self.path} cannot be read as CSV: a quote in line {line:,} is left open, so that its cell "
                        f"goes on over {len(inner) + 2} lines ({cell[:20]!r}). Repair that line."
                    )

    def _blocks(self) -> Iterator[bytes]:
        with open_csv(self.path) as file:
            file.read(self.dialect.begin)
            yield from iter(lambda: file.read(_BLOCK), b"")

    def _is_utf8(self) -> bool:
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            for block in self._blocks():
                decoder.decode(block)
        except UnicodeDecodeError:
            return False
        return True

    def _broken(self, error: Exception) -> ValueError:
        """Return the error for a file that Arrow cannot read, with the line that is wrong."""
        names = list(self.dialect.names)
        for line, cells in self._lines():
            if len(cells) != len(names) and not is_no_row(cells, names):
                shown = readable(self.dialect.separator.join(cells)[:60])
                return ValueError(
                    f"{self.path} cannot be read as CSV: line {line:,} has {len(cells)} cells ({shown!r}), and the "
                    f"header names {len(names)} columns. Repair or drop that line, or pass sep= (--sep) if the cells "
                    f"are not separated by {self.dialect.separator!r}."
                )
        return ValueError(f"{self.path} cannot be read as CSV ({error}). Repair the file.")
