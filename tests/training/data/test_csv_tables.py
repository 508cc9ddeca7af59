"""Delimited tables as spreadsheet programs, databases and pandas write them."""

import pytest

from training.data.csv_tables import column_name, find_separator, parse_number, read_csv, read_csv_table


KNOWN = ("id", "text", "answer", "file_name")
ROWS = [{"id": "01", "text": "Oh, no; really", "answer": "2,4"}, {"id": "2", "text": "", "answer": "1/2/2026"}]


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "metadata.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_every_separator_encoding_and_line_end(tmp_path, separator, encoding, line_end):
    lines = ["id?text?answer", '01?"Oh, no; really"?"2,4"', "2??1/2/2026"]
    path = write(tmp_path, line_end.join(lines).replace("?", separator), encoding)
    assert read_csv_table(path, KNOWN).rows == ROWS


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\nid;text;answer\n01;Oh, no\\; really;x\n".replace("\\;", ","),
        "\n\nid;text;answer;;\n\n01;Oh, no, really;x;;\n;;;;\n  \n",
        "id; text;answer\n01; Oh, no, really; x\n",
        "\u00a0ID\u00a0;Text ;\ufeffANSWER\n01;Oh, no, really;x\n",
        '"id";"text";"answer"\r\n"01";"Oh, no, really";"x"\r\n',
        ";id;text;answer\n0;01;Oh, no, really;x\n",  # the index of pandas
    ],
)
def test_habits_of_spreadsheet_programs(tmp_path, text):
    assert read_csv_table(write(tmp_path, text), KNOWN).rows == [{"id": "01", "text": "Oh, no, really", "answer": "x"}]


def test_cells_left_out_at_the_end_of_a_row_are_empty(tmp_path):
    table = read_csv_table(write(tmp_path, "id;text;answer;audio\na;Hi;joy\nb;;joy;b.wav\nc;Yes;joy\n"), KNOWN)
    assert [row["audio"] for row in table.rows] == ["", "b.wav", ""]


def test_lines_are_those_of_the_file(tmp_path):
    table = read_csv_table(write(tmp_path, 'sep=,\nid,text\n\na,"two\nlines"\n,\nb,x\n'), KNOWN)
    assert table.lines == [4, 7]
    assert table.place(1).endswith("metadata.csv, line 7")


def test_unnamed_columns_with_values_are_counted(tmp_path):
    table = read_csv_table(write(tmp_path, ",id,text,\n0,a,x,\n1,b,y,\n"), KNOWN)
    assert (table.columns, table.unnamed) == (["id", "text"], 1)


def test_table_with_one_column(tmp_path):
    path = write(tmp_path, "answer\n2,4\n-1;5\n")
    assert read_csv(path, ["answer"]) == [{"answer": "2,4"}, {"answer": "-1;5"}]


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ('id,"a;b;c;d",text\n1,2,3\n', ","),
        ("x;y\n1,5;2\n3,5;4\n", ";"),
        ("x,y\na;b;c,d\na;b;c,e\n", ","),
        ("id\ttext\n1\ta, b, c\n", "\t"),
    ],
)
def test_separator_of_the_first_line(text, separator):
    assert find_separator(text, KNOWN) == separator


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('id,text\na,"open\nb,x\n', "line 2: not CSV .*Is a quote left open"),
        ('id,text\na,"He said "hi" to me"\n', "line 2: not CSV .*not doubled"),
        ("id,text,answer\na,Hi,joy\nb,Hi", "line 3: fewer cells than columns. Was the file cut off"),
        ("id;text\na;b;c\n", "line 2: more cells than columns. Quote a cell that holds a semicolon"),
        ("id;Text;text\na;b;c\n", "more than one column text"),
        ("id,text\na,b\0\n", "line 2: a NUL character"),
        ("PK\x03\x04id,text\n", "is a workbook or a zip archive. Open it and save the table as CSV UTF-8"),
    ],
)
def test_tables_that_cannot_be_read_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"metadata.csv.*{message}"):
        read_csv_table(write(tmp_path, text), KNOWN)


@pytest.mark.parametrize(
    ("text", "encoding", "word"),
    [
        ("id,text\na,Grüße aus Köln\n", "cp1252", "Windows-1252, for example 'Grüße'"),
        ("id,text\ra,déjà vu\r", "mac_roman", "Mac Roman, for example 'déjà'"),
    ],
)
def test_old_encodings_are_read_with_a_warning(tmp_path, caplog, text, encoding, word):
    (row,) = read_csv_table(write(tmp_path, text, encoding), KNOWN).rows
    assert row["text"] == text.strip().split(",")[-1]
    assert word in caplog.text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [("愤怒,厌恶", "gbk"), ("привет", "cp1251"), ("привет", "koi8-r"), ("すごい", "shift-jis"), ("화남", "euc-kr")],
)
def test_other_old_encodings_are_refused(tmp_path, text, encoding):
    with pytest.raises(ValueError, match="line 2: is not UTF-8 .*its encoding cannot be determined"):
        read_csv_table(write(tmp_path, f"id,text\na,{text}\n", encoding), KNOWN)


@pytest.mark.parametrize(
    ("text", "number"),
    [("2,4", 2.4), ("-0.5 ", -0.5), ("\u22121", -1.0), (",5", 0.5), ("1e-1", 0.1), ("+3", 3.0)]
    + [(text, None) for text in ("", "1_0", "nan", "inf", "1.2.3", "1,000.5", "02. Apr", "3 of 5")],
)
def test_numbers_have_a_point_or_a_comma(text, number):
    assert parse_number(text) == number


def test_known_names_are_found_whatever_their_case():
    for name in ("File Name", " FILE-NAME", "file_name\u00a0"):
        assert column_name(name, KNOWN) == "file_name"
    assert column_name("Speaker ", KNOWN) == "Speaker"
