"""Tables as text, character by character."""

from perception.text import aligned, markdown


def test_the_first_column_is_to_the_left_and_numbers_to_the_right():
    rows = [("stage", "ms", "calls"), ("model", "81.0", "1"), ("decode", "3", "10")]
    assert aligned(rows).splitlines() == ["stage     ms  calls", "model   81.0      1", "decode     3     10"]


def test_other_columns_may_be_to_the_left_and_no_line_ends_in_blanks():
    assert aligned([("a", "b"), ("cc", "ddd")], left=(0, 1)) == "a   b\ncc  ddd"
    assert aligned([("", "n"), ("x", "")]) == "   n\nx"


def test_no_rows_are_no_lines():
    assert aligned([]) == ""


def test_markdown():
    assert markdown(("a", "b"), [("1", "2")]) == ["| a | b |", "|---|---|", "| 1 | 2 |"]
