"""A table written in any dialect reads back to the same numbers, or is refused by name."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyvae.recordings import read_log
from anomalyvae.tables.dialect import find_dialect
from anomalyvae.tables.rows import read_rows

NUMBERS = st.one_of(
    st.floats(-1e6, 1e6).map(lambda x: round(x, 4)), st.integers(-(10**6), 10**6).map(float), st.floats(1e-8, 1e8)
)
PREAMBLES = ("", '"Format","Logger 3"\n"Venue";x\n\n', "# made by a logger\n# on a bench\n", "\n\n", "Logger 3.1\n\n")
UNITS = {"speed": "km/h", "temp °C": "°C", "rpm": "1/min"}


def written(columns, separator, decimal, quoting, end, preamble, units, trailing):
    text = io.StringIO()
    rows = csv.writer(text, delimiter=separator, quoting=quoting, lineterminator="\n")
    rows.writerow(["time", *columns])
    if units:
        rows.writerow(["s", *(UNITS[name] for name in columns)])
    for place in range(len(next(iter(columns.values())))):
        cells = [repr(place / 10), *(repr(column[place]) for column in columns.values())]
        cells = ["" if cell == "nan" else cell.replace(".", decimal) for cell in cells]
        rows.writerow([*cells, ""] if trailing else cells)
    return (preamble + text.getvalue()).replace("\n", end)


@settings(max_examples=120)
@given(
    values=st.lists(st.tuples(NUMBERS, NUMBERS, st.one_of(NUMBERS, st.just(float("nan")))), min_size=3, max_size=40),
    separator=st.sampled_from(",;\t|"),
    decimal=st.sampled_from(".,"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le", "utf-16-be"]),
    preamble=st.sampled_from(PREAMBLES),
    units=st.booleans(),
    trailing=st.booleans(),
)
def test_any_dialect_gives_the_same_numbers_or_a_named_error(
    tmp_path_factory, values, separator, decimal, quoting, end, encoding, preamble, units, trailing
):
    columns = dict(zip(UNITS, np.array(values).T.tolist(), strict=True))
    text = written(columns, separator, decimal, quoting, end, preamble, units, trailing)
    path = tmp_path_factory.getbasetemp() / "dialect.csv"
    path.write_bytes(text.encode(encoding))
    complaint = ""
    try:
        log, table = read_log(path), read_rows([path])
    except ValueError as error:
        complaint = str(error)
    if complaint:  # all that is open is what a comma or a point means
        assert str(path) in complaint
        assert "--decimal" in complaint
        log, table = read_log(path, decimal=decimal), read_rows([path], decimal=decimal)
    assert list(log.signals) == list(columns) == list(table)[1:]
    for name, column in columns.items():
        np.testing.assert_array_equal(log[name].values, column)
        np.testing.assert_array_equal(table[name], column)
        assert log[name].unit == (UNITS[name] if units else "")
    np.testing.assert_array_equal(table["time"], np.arange(len(values)) / 10)


def dialect_of(text, **options):
    return find_dialect(text.encode(), "drive.csv", **options)


@pytest.mark.parametrize(
    ("text", "names", "line"),
    [
        ("sep=;\na;b\n1;2\n", ("a", "b"), 3),
        ("sep=\t\na\tb\n1\t2\n", ("a", "b"), 3),
        ('"Format","MoTeC CSV File"\n"Venue","x"\n\n"Time","Speed"\n"s","km/h"\n"0.0","1"\n', ("Time", "Speed"), 6),
        ("timestamp,lap,speed\nunix time,,m/s\n,100: gps,calc\n1700000000.1,1,2\n", ("timestamp", "lap", "speed"), 4),
        ("Logger,3\nSession,x\ntime,speed\n0,1\n1,2\n", ("time", "speed"), 4),
        ("# note\na,b\n\n1,2\n", ("a", "b"), 3),
        ("a,b\n1,2,\n3,4,\n", ("a", "b", ""), 2),
        ("a,b,\n1,2\n3,4\n", ("a", "b"), 2),
        ('a,b\n"x; y",1\n"z",2\n', ("a", "b"), 2),
        ("0,1,2\n5,6.5,7\n", ("0", "1", "2"), 2),
        (",0,1\n0,6.5,7\n1,2.5,1\n", ("", "0", "1"), 2),
        ("name\nann\nbob\n", ("name",), 2),
        ("a,b\n,\n1,2\n", ("a", "b"), 2),
        ("LabVIEW\t\nWriter\t2\nX\tTemp\n0\t1\n1\t2\n2\t3\n", ("X", "Temp"), 4),
        ("time,x\n0,1\t\n1,2\t\n", ("time", "x"), 2),
    ],
)
def test_where_the_table_begins(text, names, line):
    dialect = dialect_of(text)
    assert (dialect.names, dialect.line) == (names, line)
    assert text.encode()[dialect.begin :] == "".join(text.splitlines(keepends=True)[line - 1 :]).encode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no header line"),
        ("1.5,2\n2.5,3\n", r"has no header line: line 1 holds values \('1.5', '2'\)"),
        ("2024-05-01 10:00,3\n2024-05-01 10:01,4\n", "has no header line: line 1 holds values"),
        ("a;b\n1,234;5\n2,345;6\n", r"the cell '1,234' in line 2, which may have decimals or thousands\. .*--decimal"),
        ("a;b\n1.234;5\n2.345;6\n", r"the cell '1.234' in line 2, which may have decimals or thousands\. .*--decimal"),
        ("a;b\n0,5;1.5\n0,7;2.5\n", r"decimal point \('1.5' in line 2\) and with a decimal comma \('0,5' in line 2\)"),
        ("a,b\n0,5,1,5\n1,5,2,5\n", r"line 1 has 2 cells \('a', 'b'\), and line 2 has 4 .*--sep"),
        (
            "a   b\n1   2\n3   44\n55  6\n",
            r"has one column if commas separate its cells, but '1   2' looks like several.*--sep",
        ),
        ("a~b\n1~2\n3~4\n5~6\n", r"but '1~2' looks like several.*--sep"),
        ("sep=;\na,b\n1,2\n3,4\n", r"has one column if semicolons separate its cells, but 'a,b' looks like several"),
        ("a b\n1 2\n3 4\n5 6\n", r"would have 2 columns if spaces separated its cells .*--sep\) ' '"),
        ("a;b|c;d\n1;2|3;4\n5;6|7;8\n", r"has cells such as '2\|3' if the semicolon separates them\. .*--sep"),
    ],
)
def test_what_the_first_lines_leave_open_is_refused(text, said):
    with pytest.raises(ValueError, match=rf"drive\.csv .*{said}"):
        dialect_of(text)


def test_options_decide():
    assert dialect_of("a;b\n1,234;5\n", decimal=",").decimal == ","
    assert dialect_of("a b\n1 2\n3 4\n", sep=" ").names == ("a", "b")
    assert find_dialect("größe,b\n1,2\n".encode("cp850"), "drive.csv", encoding="cp850").names == ("größe", "b")
    for options, said in [
        ({"sep": ";;"}, "--sep"), ({"decimal": "'"}, "--decimal"), ({"encoding": "latin-99"}, "--encoding"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=said):
            dialect_of("a,b\n1,2\n", **options)
