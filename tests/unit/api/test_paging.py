"""Limits, filters and pages of lists."""

import pytest

from api.paging import list_body, metadata_filter, page_limit
from models.errors import RequestError


def test_limit_is_openais() -> None:
    assert [page_limit(None), page_limit("1"), page_limit("100")] == [20, 1, 100]
    assert page_limit("10000", most=10_000) == 10_000


@pytest.mark.parametrize("text", ["0", "101", "-1", "1.5", "", "ten", "٣", "1e2", " 5", "9" * 5000])
def test_other_limit_is_refused(text: str) -> None:
    with pytest.raises(RequestError) as refused:
        page_limit(text)

    assert (refused.value.error_code, refused.value.param) == ("invalid_limit", "limit")


def test_metadata_filters_are_named_in_brackets() -> None:
    query = {"metadata[team]": "search", "metadata": "y", "limit": "3", "metadata[a b]": "' OR 1"}

    assert metadata_filter(query) == {"team": "search", "a b": "' OR 1"}


def test_brackets_and_line_breaks_in_a_key_are_its_own() -> None:
    assert metadata_filter({"metadata[a]b]": "1", "metadata[[x]]": "2", "metadata[c\nd]": "3"}) == {
        "a]b": "1",
        "[x]": "2",
        "c\nd": "3",
    }


@pytest.mark.parametrize(
    "query",
    [
        {"metadata[]": "x"},
        {"metadata[a": "x"},
        {f"metadata[{'k' * 65}]": "x"},
        {f"metadata[{n}]": "x" for n in range(17)},
    ],
)
def test_filter_that_cannot_be_read_is_refused_instead_of_dropped(query: dict[str, str]) -> None:
    with pytest.raises(RequestError) as refused:
        metadata_filter(query)

    assert (refused.value.error_code, refused.value.param) == ("invalid_metadata", "metadata")


def test_page_names_its_ends() -> None:
    page = list_body([{"id": "a"}, {"id": "b"}], has_more=True)

    assert (page["object"], page["first_id"], page["last_id"], page["has_more"]) == ("list", "a", "b", True)
    assert list_body([], has_more=False)["last_id"] is None
