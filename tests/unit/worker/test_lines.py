"""Reading lines: numbers, offsets to go on from, and lines too long to hold."""

from io import BytesIO

from worker.lines import Line, read_lines


def test_lines_carry_their_number_and_the_offset_behind_them() -> None:
    lines = list(read_lines(BytesIO(b"ab\n\ncd\r\nef"), max_bytes=100))
    assert lines == [Line(1, b"ab", 3), Line(2, b"", 4), Line(3, b"cd", 8), Line(4, b"ef", 10)]


def test_reading_goes_on_where_it_stopped() -> None:
    file = BytesIO(b"ab\ncd\nef\n")
    first = next(read_lines(file, max_bytes=100))
    file.seek(first.end)
    assert [line.raw for line in read_lines(file, max_bytes=100, number=1)] == [b"cd", b"ef"]


def test_line_over_the_limit_keeps_only_its_head() -> None:
    long, short = read_lines(BytesIO(b"x" * 1000 + b"\nab\n"), max_bytes=10)
    assert 10 < len(long.raw) <= 12
    assert (long.end, short) == (1001, Line(2, b"ab", 1004))


def test_line_of_exactly_the_limit_is_whole() -> None:
    (line,) = read_lines(BytesIO(b"x" * 10 + b"\r\n"), max_bytes=10)
    assert line.raw == b"x" * 10


def test_byte_order_mark_belongs_to_no_line() -> None:
    (line,) = read_lines(BytesIO(b"\xef\xbb\xbf\n"), max_bytes=10)
    assert line.is_blank
    assert line.end == 4
