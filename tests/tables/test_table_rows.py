"""Rows of tables: numbers, truth values and text, by line and cell where they are none of these."""

import numpy as np
import pandas as pd
import pytest

from anomalyvae.recordings import read_log
from anomalyvae.tables.files import CsvFile
from anomalyvae.tables.rows import read_rows, typed_tables
from anomalyvae.tables.useful import useful_columns


def with_cell(cell):
    """A column of numbers with one other cell, in line 7."""
    quoted = f'"{cell}"' if "," in cell else cell
    return "x,y\n" + "".join(f"{quoted if row == 5 else row / 4},{row}\n" for row in range(40))


NUMBERS = [
    ("1e5", 1e5), ("+1.5", 1.5), ("−1.5", -1.5), ("\xa01.5", 1.5), (" 2 ", 2.0), ("0x1F", 31.0), (".5", 0.5),
    ("5.", 5.0), ("9007199254740993", float(2**53)), ("1e-320", 1e-320), ("inf", np.inf), ("", np.nan), ("-", np.nan),
    ("?", np.nan), ("NODATA", np.nan), ("None", np.nan), ("Fehler", np.nan), ("#DIV/0!", np.nan), ("n/a", np.nan),
    ("NaN", np.nan), ("null", np.nan), ("--", np.nan), ("#NV", np.nan), ("#¡VALOR!", np.nan),
    ("\\N", np.nan), ("(null)", np.nan),
]  # fmt: skip


@pytest.mark.parametrize(("cell", "value"), NUMBERS)
def test_what_a_number_may_look_like(write, cell, value):
    path = write(with_cell(cell))
    scored = next(typed_tables(CsvFile(path), ["x"], {}))["x"].to_numpy()
    learned = read_rows([path])["x"].to_numpy()
    for read in (scored, learned):
        np.testing.assert_array_equal(read[5], value)
        np.testing.assert_array_equal(np.delete(read, 5), np.delete(np.arange(40) / 4, 5))


@pytest.mark.parametrize(
    "cell", ["abc", "12 km/h", "1,234", "1,234.5", "1.234,5", "1_000", "1 234", "TRUE", "1d5", "९", "0.1.2", "1e"]
)
def test_one_other_cell_in_a_column_of_numbers_is_refused_by_line(write, cell):
    path = write(with_cell(cell))
    said = rf"'x' of .*drive\.csv .*: 39 of 40 cells are numbers; line 7 holds '{cell}'\. .*--na\) '{cell}'"
    with pytest.raises(ValueError, match=said):
        read_rows([path])
    with pytest.raises(ValueError, match=said):
        list(typed_tables(CsvFile(path), ["x"], {}))
    assert np.isnan(read_rows([path], na=[cell])["x"][5])
    assert np.isnan(next(typed_tables(CsvFile(path, na=[cell]), ["x"], {}))["x"].to_numpy()[5])
    assert list(read_rows([path], exclude=["x"])) == ["y"]


@pytest.mark.parametrize("cell", ["1\u202f234,5", "1\u2009234", "1,23,456.5", "1.5D+02", '="1.5"'])
def test_a_column_of_numbers_in_another_form_is_no_text(write, cell):
    quoted = '"' + cell.replace('"', '""') + '"'
    path = write("x;y\n" + "".join(f"{quoted};{row}\n" for row in range(40)))
    with pytest.raises(ValueError, match=r"'x' of .* is neither of numbers nor of text: 0 of 40 cells are numbers"):
        read_rows([path])


def test_a_number_can_be_a_marker(write):
    assert np.isnan(read_rows([write(with_cell("-999"))], na=["-999"])["x"][5])


@pytest.mark.parametrize("row", [0, 3, 70_000])
def test_a_late_cell_does_not_change_those_before(write, row):
    path = write("x\n" + "".join(f"{'+1' if i == row else i / 8}\n" for i in range(70_010)))
    read = np.concatenate([t["x"].to_numpy() for t in typed_tables(CsvFile(path), ["x"], {})])
    expected = np.arange(70_010) / 8
    expected[row] = 1
    np.testing.assert_array_equal(read, expected)


def test_kinds_of_columns(write):
    text = "n,b,t,m\n" + "".join(
        f"{i},{i % 2 == 0},{'abc'[i % 3]},{'' if i % 4 == 3 else 'ok' if i % 2 else 'error'}\n" for i in range(40)
    )
    table = read_rows([write(text)])
    assert [table[name].dtype.kind for name in table] == ["f", "b", "O", "O"]
    assert table["m"].dropna().unique().tolist() == ["error", "ok"]  # in a column of text it may be a level
    kinds = {"b": "bool", "t": "text", "m": "text"}
    scored = next(typed_tables(CsvFile(write(text)), ["n", "b", "t", "m"], kinds)).to_pandas()
    pd.testing.assert_frame_equal(scored, table)


@pytest.mark.parametrize(
    ("learned", "text", "said"),
    [
        ("number", "x\na\nb\n", r"expected numbers as in training: 0 of 2 cells are numbers; line 2 holds 'a'"),
        ("bool", "x\ntrue\n2\n", r"expected true or false as in training: 1 of 2 .* line 3 holds '2'"),
    ],
)
def test_a_column_of_another_kind_than_in_training_is_refused(write, learned, text, said):
    with pytest.raises(ValueError, match=said):
        list(typed_tables(CsvFile(write(text)), ["x"], {"x": learned}))


@pytest.mark.parametrize(
    "column",
    ["{i} %", "{i} km/h", '"1,{i:03d}.5"', '"{i},5"', "{i}’000", "'{i}", "€ {i}.50"],
)
def test_numbers_in_disguise_are_no_categories(write, column):
    text = "x,y\n" + "".join(f"{column.format(i=i)},{i / 2}\n" for i in range(40))
    with pytest.raises(ValueError, match=r"--na|--decimal"):
        read_rows([write(text)])


def test_a_column_without_a_name_is_left_out_with_a_warning(write):
    frame = pd.DataFrame({"x": np.arange(5) / 4, "y": np.arange(5.0)})
    path = write(frame.to_csv())
    with pytest.warns(UserWarning, match=r"Column 1 of .*drive\.csv has no name and is left out"):
        pd.testing.assert_frame_equal(read_rows([path]), frame)


def test_markers_do_not_make_a_column_of_text(write):
    with pytest.raises(ValueError, match=r"1 of 2 cells are numbers; line 2 holds '1e'"):
        read_rows([write("x\n1e\n--\n-\n-20.0\n")])


def test_all_faults_of_all_files_come_at_once(write):
    columns = "".join(f",c{i}" for i in range(300))
    numbers = ",1" * 300
    paths = [
        write(f"a,b{columns}\n1,2{numbers}\n3,4{numbers}\n", "1.csv"),
        write(f"a,bee{columns}\n1,2{numbers}\n", "2.csv"),
        write(f"a,b{columns}\nred,x{numbers}\nred,2{numbers}\n", "3.csv"),
        write("a\n", "4.txt"),
    ]
    with pytest.raises(ValueError, match=r"^4 faults in the tables: \(1\) ") as caught:
        read_rows(paths)
    said = str(caught.value)
    assert "2.csv has no column b. Use one of 'a'" in said
    assert "Column 'b' of" in said
    assert "1 of 2 cells are numbers; line 2 holds 'x'" in said
    assert "Column 'a' holds text in" in said
    assert "4.txt is not a .parquet, .csv or .csv.gz file" in said
    assert len(said) < 1500


def test_a_missing_column_names_its_nearest(write):
    names = [f"pressure_{i}" for i in range(294)]
    path = write(",".join(names) + "\n" + ",".join("1" for _ in names) + "\n")
    with pytest.raises(ValueError, match=r"has no column presure_17\. Did you mean 'pressure_17'\?$"):
        read_rows([path], ["presure_17"])


def test_columns_that_teach_nothing_are_named_and_left_out():
    n = 40
    table = pd.DataFrame(
        {
            "id": np.arange(n) + 1, "when": [f"2024-05-01 10:00:{i:02d}" for i in range(n)], "const": 7.0,
            "empty": np.nan, "code": [f"K{i * 37}" for i in range(n)], "time": np.cumsum(np.full(n, 0.3)),
            "day": pd.date_range("2024-05-01", periods=n), "x": np.arange(n) ** 2 % 17, "t": list("ab" * (n // 2)),
        }
    )  # fmt: skip
    with pytest.warns(UserWarning, match="Left out") as caught:
        kept = useful_columns(table)
    assert list(kept) == ["x", "t"]
    (warning,) = caught
    for said in (
        "'id' (an identifier)", "'when' (a time stamp)", "'const' (constant)", "'empty' (empty)",
        "'code' (an identifier)", "'time' (a time stamp)", "'day' (a time stamp)", "--columns",
    ):  # fmt: skip
        assert said in str(warning.message)
    with pytest.raises(ValueError, match=r"Nothing can be learned from the columns 'id' \(an identifier\)"):
        useful_columns(table[["id", "const"]])
    assert list(useful_columns(table[["id", "x"]], keep=["id"])) == ["id", "x"]
    ramp = pd.DataFrame({"speed": np.arange(n), "rpm": np.arange(n) + 800})  # whole numbers in a row are no identifiers
    assert list(useful_columns(ramp)) == ["speed", "rpm"]


def test_lines_that_are_not_in_utf8_are_judged_as_others(tmp_path, capfd):
    rows = [f"{i},{i * i},gr\xf6\xdfer" for i in range(50)]
    path = tmp_path / "a.csv"
    path.write_bytes("\n".join(["time,x,note", *rows, "# f\xfcr heute", "50,2500,\xd6l", ""]).encode("cp1252"))
    read = read_rows([path])
    assert read["x"].tolist() == [float(i * i) for i in range(51)]
    assert read["note"].tolist() == ["gr\xf6\xdfer"] * 50 + ["\xd6l"]
    np.testing.assert_array_equal(read_log(path)["x"].values, read["x"])
    with path.open("ab") as file:
        file.write("51,1,2,\xfc\n".encode("cp1252"))
    with pytest.raises(ValueError, match="line 54 has 4 cells \\('51,1,2,\xfc'\\)"):
        read_rows([path])
    assert capfd.readouterr().err == ""


def test_clocks_and_counters_that_begin_again_in_each_file_teach_nothing():
    n, files = 30, 4
    table = pd.DataFrame({"time": np.arange(n) / 10, "row": np.arange(n), "ns": 1_700_000_000 * 10**9 + np.arange(n)})
    table = pd.concat([table] * files, ignore_index=True).assign(x=np.arange(n * files) ** 2 % 17)
    table["t"] = 20 + np.sin(np.arange(len(table)))  # a temperature
    table["timestamp"] = table["ns"]
    with pytest.warns(UserWarning, match=r"'time' \(a time stamp\), 'row' \(an identifier\), 'timestamp' \(a time"):
        assert list(useful_columns(table)) == ["ns", "x", "t"]


def test_a_semicolon_table_is_not_one_category_per_row(write):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(50, 3)), columns=list("abc"))
    for options in ({}, {"decimal": ","}):
        read = read_rows([write(frame.to_csv(index=False, sep=";", **options))])
        pd.testing.assert_frame_equal(read, frame, check_exact=True)


def test_a_quote_that_is_left_open_swallows_no_rows(write):
    lines = [f"{i / 10},{i},{i * i}\n" for i in range(600)]
    lines[300] = '30.0,300,"90000\n'
    path = write("time,x,y\n" + "".join(lines))
    for read in (lambda: read_log(path, signals=["x"]), lambda: read_rows([path], ["time", "x"])):
        with pytest.raises(ValueError, match=r"a quote in line 302 is left open"):
            read()
    broad = write("x,y,note\n" + "1,2,fine\n" * 300 + '1,2,"two\nlines"\n3,"' + 200_000 * "y" + '",z\n')
    with pytest.raises(ValueError, match=r"cannot be read as CSV: field larger than field limit .*, at line 304\. Rep"):
        read_rows([broad])
    notes = write('x,note\n1,"two\nlines"\n2,"three, or\nmore,\nlines"\n')
    assert read_rows([notes])["note"].tolist() == ["two\nlines", "three, or\nmore,\nlines"]
