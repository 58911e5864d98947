"""The Range header: one range, the rest ignored."""

import pytest

from api.errors import RangeNotSatisfiable
from api.files.ranges import content_range, cut, wants_range


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=2-5", (2, 6)),
        ("bytes=2-", (2, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)),
        ("bytes=9-99", (9, 10)),
        ("BYTES = 1 - 2 ", (1, 3)),
        ("bytes=0-999999999999999999", (0, 10)),
    ],
)
def test_range_is_cut_to_the_file(header: str, part: tuple[int, int]) -> None:
    assert cut(header, 10) == part
    assert wants_range(header)


@pytest.mark.parametrize(
    "header",
    [None, "", "bytes=", "bytes=-", "bytes=5-2", "bytes=0-1,3-4", "items=0-1", "bytes=a-b", "bytes=٣-", "bytes=--1"],
)
def test_what_cannot_be_read_means_the_whole(header: str | None) -> None:
    assert cut(header, 10) is None
    assert not wants_range(header)


@pytest.mark.parametrize(
    ("header", "num_bytes"), [("bytes=10-", 10), ("bytes=10-20", 10), ("bytes=-0", 10), ("bytes=0-", 0)]
)
def test_range_beyond_the_end_is_refused(header: str, num_bytes: int) -> None:
    with pytest.raises(RangeNotSatisfiable) as refused:
        cut(header, num_bytes)

    assert refused.value.headers == {"content-range": f"bytes */{num_bytes}"}


def test_content_range_names_the_last_byte() -> None:
    assert content_range((2, 6), 10) == "bytes 2-5/10"
