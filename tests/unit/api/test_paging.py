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
    query = {"metadata[team]": "search", "metadata[]": "x", "metadata": "y", "limit": "3", "metadata[a b]": "' OR 1"}

    assert metadata_filter(query) == {"team": "search", "a b": "' OR 1"}


def test_page_names_its_ends() -> None:
    page = list_body([{"id": "a"}, {"id": "b"}], has_more=True)

    assert (page["object"], page["first_id"], page["last_id"], page["has_more"]) == ("list", "a", "b", True)
    assert list_body([], has_more=False)["last_id"] is None
