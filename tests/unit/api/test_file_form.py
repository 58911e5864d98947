"""What the form of an upload must say."""

import pytest

from api.files.form import FIELDS, check_listed_purpose, new_file
from api.files.multipart import Form
from models.errors import RequestError
from models.ids import uuid7

ID = uuid7()
DAY = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "86400"}


def form(filename: str = "in.jsonl", **fields: str) -> Form:
    return Form(fields, filename, 7)


def test_batch_files_expire_after_thirty_days_unless_they_say_otherwise() -> None:
    assert new_file(ID, "t", form(purpose="batch")).expires_after_seconds == 2_592_000
    assert new_file(ID, "t", form(purpose="batch", **DAY)).expires_after_seconds == 86_400
    assert new_file(ID, "t", form(purpose="user_data")).expires_after_seconds is None


def test_row_has_what_was_sent() -> None:
    new = new_file(ID, "t", form(purpose="evals", **DAY))

    assert (new.id, new.tenant, new.purpose, new.filename, new.bytes) == (ID, "t", "evals", "in.jsonl", 7)


@pytest.mark.parametrize("fields", [{}, {"purpose": ""}, {"purpose": "batch_output"}, {"purpose": "Batch"}])
def test_other_purposes_are_refused(fields: dict[str, str]) -> None:
    with pytest.raises(RequestError) as refused:
        new_file(ID, "t", form(**fields))

    assert (refused.value.error_code, refused.value.param) == ("invalid_purpose", "purpose")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"expires_after[anchor]": "now"}, "expires_after[anchor]"),
        ({"expires_after[anchor]": ""}, "expires_after[anchor]"),
        ({"expires_after[seconds]": "3599"}, "expires_after[seconds]"),
        ({"expires_after[seconds]": "2592001"}, "expires_after[seconds]"),
        ({"expires_after[seconds]": "1e4"}, "expires_after[seconds]"),
        ({"expires_after[seconds]": "9" * 5000}, "expires_after[seconds]"),
        ({"expires_after[seconds]": ""}, "expires_after[seconds]"),
    ],
)
def test_other_expiry_is_refused(changes: dict[str, str], param: str) -> None:
    with pytest.raises(RequestError) as refused:
        new_file(ID, "t", form(purpose="batch", **DAY | changes))

    assert (refused.value.error_code, refused.value.param) == ("invalid_value", param)


@pytest.mark.parametrize("missing", sorted(FIELDS - {"purpose"}))
def test_half_an_expiry_is_refused(missing: str) -> None:
    fields = {name: value for name, value in DAY.items() if name != missing}

    with pytest.raises(RequestError) as refused:
        new_file(ID, "t", form(purpose="batch", **fields))

    assert refused.value.param == missing


def test_list_can_be_of_outputs_too() -> None:
    check_listed_purpose(None)
    check_listed_purpose("batch_output")
    with pytest.raises(RequestError):
        check_listed_purpose("' OR 1=1")
