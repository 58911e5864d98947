"""The small rules at the edge: who may bind, how long to wait, which ids are sound, which error is which answer."""

import inspect

import pytest

from api import errors as http
from api.auth import is_local, refuse_unsafe_bind
from api.request_id import request_id
from api.waiting import MAX_WAIT_SECONDS, patience_seconds
from models import errors as ours
from models.settings import load_settings


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_loopback_may_be_bound_without_keys(host: str) -> None:
    refuse_unsafe_bind(load_settings(auth="auto"), host, lambda: False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_network_may_be_bound_only_when_said_so(host: str) -> None:
    refuse_unsafe_bind(load_settings(auth="open"), host, lambda: False)
    refuse_unsafe_bind(load_settings(auth="keys"), host, lambda: False)
    refuse_unsafe_bind(load_settings(auth="auto"), host, lambda: True)
    with pytest.raises(ours.ConfigurationError, match=r"keys create NAME.*BATCHMILL_AUTH=open"):
        refuse_unsafe_bind(load_settings(auth="auto"), host, lambda: False)


@pytest.mark.parametrize(
    ("server", "local"),
    [(("127.0.0.1", 80), True), (("::1", 80), True), (("10.0.0.1", 80), False), (None, True), (("/run/x", None), True)],
)
def test_request_is_local_by_the_address_it_came_in_on(server: object, local: bool) -> None:
    assert is_local({"server": server}) is local


@pytest.mark.parametrize(
    ("wanted", "header", "seconds"),
    [(10, None, 10), (1000, None, MAX_WAIT_SECONDS), (50, "30", 25), (50, "3", 0), (50, "soon", 50), (0, "600", 0)],
)
def test_patience_ends_before_the_client_hangs_up(wanted: float, header: str | None, seconds: float) -> None:
    headers = {} if header is None else {"x-stainless-read-timeout": header}

    assert patience_seconds(headers, wanted=wanted) == seconds


@pytest.mark.parametrize("given", ["", "a b", "a\r\nb", "x" * 129, "é"])
def test_unsound_request_id_is_replaced(given: str) -> None:
    assert request_id(given).startswith("req_")
    assert request_id("abc-1") == "abc-1"


def test_every_error_has_a_place_in_the_table() -> None:
    """A class added later is answered as the nearest one above it, and never by the last resort alone."""
    found = [kind for _, kind in inspect.getmembers(ours, inspect.isclass) if issubclass(kind, ours.BatchmillError)]
    answered = {kind: next(entry for entry in kind.__mro__ if entry in http.TABLE) for kind in found}

    assert [kind for kind, entry in answered.items() if entry is Exception] == [ours.BatchmillError]


@pytest.mark.parametrize(
    "kind", [ours.RequestError, ours.NotFound, ours.DatabaseBusy, ours.StorageFull, ours.BatchClosed]
)
def test_table_agrees_with_the_classes_about_the_status(kind: type[ours.BatchmillError]) -> None:
    assert http.TABLE[kind].status == kind.status


def test_reason_of_our_own_troubles_stays_in_the_log() -> None:
    trouble = ours.DatabaseUnavailable("connection to 10.0.0.1 refused")

    assert http.public_message(trouble, http.answer_to(trouble)) == ours.DatabaseUnavailable.__doc__
