"""The verdict over an input file: every way in which a file as a whole can be bad, and on which line."""

from io import BytesIO
from typing import Any

import orjson
import pytest

from worker import validation
from worker.validation import Limits, Verdict, validate

ENDPOINT = "/v1/completions"
Spot = tuple[str, int | None]  # a code and a line


def line(custom_id: object, **changes: Any) -> bytes:  # noqa: ANN401 (any field)
    fields = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": {"prompt": "a"}, **changes}
    return orjson.dumps(fields) + b"\n"


def verdict(content: bytes, *, max_requests: int = 1000) -> Verdict:
    found = validate(BytesIO(content), Limits(ENDPOINT, 1024, max_requests), go_on=lambda _: True)
    assert found is not None
    return found


def spots(content: bytes, **limits: int) -> list[Spot]:
    return [(error["code"], error["line"]) for error in verdict(content, **limits).errors]


def test_sound_file_is_counted_without_its_blank_lines() -> None:
    content = b"\xef\xbb\xbf" + line("a") + b"\n  \r\n" + line("b") + line("c").rstrip(b"\n")
    assert verdict(content) == Verdict(3, [])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", [("empty_file", None)]),
        (b"\n \n\r\n", [("empty_file", None)]),
        (b"\xef\xbb\xbf", [("empty_file", None)]),
        (b"\n" + line("a") + b"nope\n", [("invalid_json", 3)]),
        (line("a").decode().encode("utf-16"), [("invalid_json", 1), ("invalid_json", 2)]),
        (line("a") + line("b", body={"prompt": "x" * 2000}), [("line_too_long", 2)]),
        (line(None), [("invalid_custom_id", 1)]),
        (line("a\tb"), [("invalid_custom_id", 1)]),
        (line("a", method="GET"), [("invalid_method", 1)]),
        (line("a", url="/v1/chat/completions"), [("mismatched_endpoint", 1)]),
        (
            line("a") + line("b") + b"\n" + line("a") + line("a"),
            [("duplicate_custom_id", 4), ("duplicate_custom_id", 5)],
        ),
        (
            line("a") + b"[]\n" + line("a") + b"{}\n",
            [("invalid_json", 2), ("duplicate_custom_id", 3), ("invalid_custom_id", 4)],
        ),
    ],
)
def test_bad_file_is_refused_with_its_lines(content: bytes, expected: list[Spot]) -> None:
    assert spots(content) == expected


def test_one_request_too_many_is_named_and_nothing_behind_it_is_read() -> None:
    content = line("a") + line("b") + b"\n"
    assert spots(content, max_requests=2) == []
    assert spots(content + line("c") + b"nope\n", max_requests=2) == [("too_many_requests_in_file", 4)]


def test_at_most_a_hundred_errors_are_listed_the_first_ones() -> None:
    assert spots(b"nope\n" * 150) == [("invalid_json", n) for n in range(1, 101)]
    ids = b"".join(line(str(n)) for n in range(300))
    assert spots(ids + ids) == [("duplicate_custom_id", n) for n in range(301, 401)]


def test_an_error_tells_its_field_and_not_its_value() -> None:
    (error,) = verdict(line("secret\n")).errors
    assert error["param"] == "custom_id"
    assert "secret" not in error["message"]


def test_different_ids_of_one_hash_are_no_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bytes of hash make them all collide; the second look tells them apart."""
    monkeypatch.setattr(validation._Ids, "hash", lambda _self, custom_id: bytes(8) if custom_id < "3" else b"\1" * 8)
    assert spots(b"".join(line(str(n)) for n in range(9))) == []
    assert spots(b"".join(line(str(n)) for n in (0, 1, 2, 3, 4, 2, 4))) == [
        ("duplicate_custom_id", 6),
        ("duplicate_custom_id", 7),
    ]


def test_reader_that_is_to_stop_stops_in_either_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "NOTE_LINES", 3)
    content = b"".join(line(str(n)) for n in range(9)) + line("1")
    for allowed, expected in ((2, [3, 6, 9]), (4, [3, 6, 9, 3, 6])):
        asked: list[int] = []

        def go_on(num_lines: int, asked: list[int] = asked, allowed: int = allowed) -> bool:
            asked.append(num_lines)
            return len(asked) <= allowed

        assert validate(BytesIO(content), Limits(ENDPOINT, 1024, 100), go_on=go_on) is None
        assert asked == expected
