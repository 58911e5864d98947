"""Files over HTTP: upload, object, list, delete; every refusal with its status and code."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx import Response
from sqlalchemy import select

from api.app import create_app
from api.housekeeping import Housekeeper
from api.services import Services
from models.batch_store import BatchStore
from models.database import Database
from models.errors import DatabaseUnavailable
from models.ids import parse_file_id, uuid7
from models.key_store import KeyStore
from models.records import NewFile
from models.retention import Keep, Retention
from models.settings import Settings
from models.tables import files
from tests.integration.api.test_completions import error_of
from tests.integration.store.making import new_batch
from tests.unit.api.forms import BOUNDARY, encoded, upload
from tests.waiting import wait_until

FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}
DATA = b'{"custom_id": "1"}\n'
UNKNOWN = "file-01a1ffc3a94a78b5bba1d84a3eb79f73"


@pytest.fixture
def services(app: FastAPI) -> Services:
    services: Services = app.state.services
    return services


def send(client: TestClient, data: bytes = DATA, *, purpose: str = "batch", filename: str = "in.jsonl") -> Any:  # noqa: ANN401
    """Upload a file; its object."""
    answer = client.post("/v1/files", data={"purpose": purpose}, files={"file": (filename, data)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def blobs_in(settings: Settings) -> list[Path]:
    return [path for path in (settings.state_dir / "files").rglob("*") if path.is_file()]


def test_upload_answers_the_file_object(client: TestClient, settings: Settings) -> None:
    file = send(client)

    assert file["id"].startswith("file-")
    assert (file["object"], file["bytes"], file["filename"], file["purpose"]) == ("file", 19, "in.jsonl", "batch")
    assert file["status"] == "processed"
    assert file["expires_at"] == file["created_at"] + 2_592_000
    assert client.get(f"/v1/files/{file['id']}").json() == file
    assert [path.read_bytes() for path in blobs_in(settings)] == [DATA]


def test_expiry_is_a_pair_of_bracketed_fields(client: TestClient) -> None:
    fields = {"purpose": "evals", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}

    file = client.post("/v1/files", data=fields, files={"file": ("a", b"x")}).json()

    assert file["expires_at"] == file["created_at"] + 3600


def test_name_is_stored_as_text_alone(client: TestClient, settings: Settings) -> None:
    file = send(client, filename="../../etc/passwd")

    assert file["filename"] == "../../etc/passwd"
    [path] = blobs_in(settings)
    assert path.name == str(parse_file_id(file["id"]))


def test_list_goes_page_by_page(client: TestClient) -> None:
    made = [send(client, purpose="evals")["id"] for _ in range(5)]
    send(client)

    first = client.get("/v1/files", params={"limit": 2, "purpose": "evals"}).json()
    rest = client.get("/v1/files", params={"limit": 3, "purpose": "evals", "after": first["last_id"]}).json()

    assert [file["id"] for file in first["data"] + rest["data"]] == made[::-1]
    assert (first["object"], first["first_id"], first["has_more"], rest["has_more"]) == ("list", made[4], True, False)
    oldest = client.get("/v1/files", params={"limit": 1, "order": "asc"}).json()
    assert oldest["data"][0]["id"] == made[0]


def test_empty_list(client: TestClient) -> None:
    body = client.get("/v1/files").json()

    assert body == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


def test_delete_takes_row_and_bytes(client: TestClient, settings: Settings) -> None:
    id = send(client)["id"]

    assert client.delete(f"/v1/files/{id}").json() == {"id": id, "object": "file", "deleted": True}
    assert error_of(client.get(f"/v1/files/{id}"))[:2] == (404, "not_found")
    assert error_of(client.delete(f"/v1/files/{id}"))[:2] == (404, "not_found")
    assert blobs_in(settings) == []


def test_input_of_a_live_batch_is_not_deleted(client: TestClient, services: Services) -> None:
    id = send(client)["id"]
    batch_id = new_batch(services.batches, input_file_id=parse_file_id(id))

    answer = client.delete(f"/v1/files/{id}")

    assert error_of(answer)[:2] == (409, "file_in_use")
    assert answer.headers["x-should-retry"] == "false"
    assert client.get(f"/v1/files/{id}/content").content == DATA
    services.batches.cancel(batch_id)
    assert client.delete(f"/v1/files/{id}").status_code == 200


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (encoded(upload(purpose="")), FORM, 400, "invalid_purpose"),
        (encoded(upload(purpose="batch_output")), FORM, 400, "invalid_purpose"),
        (encoded([("file", "a", b"x")]), FORM, 400, "invalid_purpose"),
        (encoded([("purpose", None, b"batch")]), FORM, 400, "missing_required_parameter"),
        (encoded([*upload(), ("file", "b", b"")]), FORM, 400, "multiple_files"),
        (encoded([*upload(), ("size", None, b"1")]), FORM, 400, "unknown_parameter"),
        (encoded([*upload(), ("expires_after[seconds]", None, b"1")]), FORM, 400, "invalid_value"),
        (encoded(upload(), closed=False), FORM, 400, "invalid_multipart"),
        (b"", FORM, 400, "invalid_multipart"),
        (encoded(upload()), {"content-type": "multipart/form-data"}, 400, "invalid_multipart"),
        (encoded(upload()), {"content-type": "text/xml"}, 415, "unsupported_media_type"),
        (b"{}", {"content-type": "application/json"}, 415, "unsupported_media_type"),
        (encoded(upload()), FORM | {"content-encoding": "gzip"}, 415, "unsupported_encoding"),
    ],
)
def test_refused_upload_leaves_nothing(
    client: TestClient, settings: Settings, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    answer = client.post("/v1/files", content=body, headers=headers)

    assert error_of(answer)[:2] == (status, code)
    assert client.get("/v1/files").json()["data"] == []
    assert blobs_in(settings) == []


@pytest.mark.parametrize("is_announced", [True, False])
def test_file_over_the_limit_leaves_nothing(settings: Settings, database: Database, is_announced: bool) -> None:
    settings = settings.model_copy(update={"max_file_bytes": 200_000})
    body = encoded(upload(b"x" * 300_000))

    def chunks() -> Iterator[bytes]:
        yield from (body[start : start + 10_000] for start in range(0, len(body), 10_000))

    with TestClient(create_app(settings, database)) as client:
        answer = client.post("/v1/files", content=body if is_announced else chunks(), headers=FORM)
        kept = send(client, b"x" * 200_000)

        assert error_of(answer) == (413, "file_too_large", "file")
        assert answer.headers["connection"] == "close"
        assert kept["bytes"] == 200_000
        assert len(blobs_in(settings)) == 1


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"limit": "0"}, "invalid_limit"),
        ({"limit": "10001"}, "invalid_limit"),
        ({"limit": "x"}, "invalid_limit"),
        ({"after": UNKNOWN}, "invalid_cursor"),
        ({"after": "' OR 1=1"}, "invalid_cursor"),
        ({"after": "x" * 10_000}, "invalid_cursor"),
        ({"order": "up"}, "invalid_value"),
        ({"purpose": "'; DROP TABLE files"}, "invalid_purpose"),
    ],
)
def test_odd_list_is_refused(client: TestClient, params: dict[str, str], code: str) -> None:
    assert error_of(client.get("/v1/files", params=params))[:2] == (400, code)


@pytest.mark.parametrize(
    "id", [UNKNOWN, "file-x", UNKNOWN.replace("file-", "batch_"), "x" * 10_000, "%00", "..%2f..%2fetc"]
)
@pytest.mark.parametrize("call", ["GET /v1/files/{}", "GET /v1/files/{}/content", "DELETE /v1/files/{}"])
def test_unknown_file_is_not_found(client: TestClient, call: str, id: str) -> None:
    method, _, path = call.partition(" ")

    assert error_of(client.request(method, path.format(id)))[:2] == (404, "not_found")


@pytest.mark.parametrize(
    ("call", "allowed"),
    [
        ("PUT /v1/files", {"GET", "POST"}),
        ("HEAD /v1/files", {"GET", "POST"}),
        ("POST /v1/files/{}", {"GET", "DELETE"}),
        ("DELETE /v1/files/{}/content", {"GET"}),
    ],
)
def test_other_methods_are_refused(client: TestClient, call: str, allowed: set[str]) -> None:
    method, _, path = call.partition(" ")

    answer = client.request(method, path.format(UNKNOWN))

    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) <= allowed


@pytest.mark.parametrize(
    "call",
    [
        lambda client, id: client.get(f"/v1/files/{id}"),
        lambda client, id: client.get(f"/v1/files/{id}/content"),
        lambda client, id: client.get(f"/v1/files/{id}/content", headers={"range": "bytes=0-1"}),
        lambda client, id: client.delete(f"/v1/files/{id}"),
        lambda client, id: client.get("/v1/files", params={"after": id}),
    ],
)
def test_foreign_file_answers_as_an_unknown_one(
    settings: Settings, database: Database, call: Callable[[TestClient, str], Response]
) -> None:
    """Byte for byte; and the file is unharmed."""
    keys = KeyStore(database)
    with TestClient(create_app(settings.model_copy(update={"auth": "keys"}), database)) as client:
        client.headers["authorization"] = f"Bearer {keys.create('owner')[0]}"
        file = send(client)
        owner, client.headers["authorization"] = client.headers["authorization"], f"Bearer {keys.create('other')[0]}"

        foreign, unknown = call(client, file["id"]), call(client, UNKNOWN)

        assert (foreign.status_code, foreign.content) == (unknown.status_code, unknown.content)
        assert foreign.status_code >= 400
        assert client.get("/v1/files").json()["data"] == []
        client.headers["authorization"] = owner
        assert client.get(f"/v1/files/{file['id']}/content").content == DATA


def test_row_that_cannot_be_stored_leaves_no_bytes(
    client: TestClient, services: Services, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes are in place by then."""

    def fail(_: NewFile) -> None:
        assert len(blobs_in(settings)) == 1
        raise DatabaseUnavailable

    monkeypatch.setattr(type(services.files), "create", lambda _, new: fail(new))

    answer = client.post("/v1/files", content=encoded(upload()), headers=FORM)

    assert error_of(answer)[:2] == (503, "database_unavailable")
    assert blobs_in(settings) == []


def test_crash_between_bytes_and_row_shows_nothing(client: TestClient, services: Services) -> None:
    """What a process killed there leaves: bytes without a row."""
    id = uuid7()
    with services.blobs.writer(id) as writer:
        writer.write(DATA)

    assert error_of(client.get(f"/v1/files/file-{id.hex}/content"))[:2] == (404, "not_found")
    assert client.get("/v1/files").json()["data"] == []


def test_expired_files_are_cleared_away(client: TestClient, services: Services, settings: Settings) -> None:
    """Rows and bytes; a file that a live batch reads stays."""
    expired = services.files.create(NewFile(uuid7(), "default", "batch", "a", 1, -1))
    in_use, kept = parse_file_id(send(client)["id"]), send(client)["id"]
    with services.blobs.writer(expired.id) as writer:
        writer.write(b"x")
    new_batch(BatchStore(services.database), input_file_id=in_use)
    assert error_of(client.get(f"/v1/files/file-{expired.id.hex}"))[:2] == (404, "not_found")

    Housekeeper(
        Retention(services.database, services.blobs, Keep()), services.blobs
    ).clear()  # or the service's own did

    wait_until(lambda: {path.name for path in blobs_in(settings)} == {str(in_use), str(parse_file_id(kept))})
    with services.database.read() as connection:
        assert set(connection.scalars(select(files.c.id))) == {in_use, parse_file_id(kept)}


def test_service_clears_away_when_it_starts(settings: Settings, database: Database) -> None:
    app = create_app(settings, database)
    services: Services = app.state.services
    services.files.create(NewFile(uuid7(), "default", "batch", "a", 1, -1))

    with TestClient(app):
        pass

    assert services.files.expire(10) == []


def test_openapi_tells_the_form(client: TestClient) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/v1/files"]["post"]

    schema = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert schema["required"] == ["purpose", "file"]
    assert json.dumps(schema["properties"]["file"]) == '{"type": "string", "format": "binary"}'
