"""batchmill keys: made and revoked on the command line, asked for by a service that listens to a network."""

import json

import openai
import pytest

from tests.acceptance.conftest import Desk
from tests.acceptance.test_serve import Service
from tests.waiting import wait_until


def test_service_on_a_network_asks_for_the_keys_that_were_made(desk: Desk) -> None:
    made = desk.run("keys", "create", "team", "--expires", "30d")
    key = made.stdout.strip()
    assert (made.returncode, made.stdout) == (0, key + "\n")
    assert key.startswith("bm_")
    assert key[12:] not in made.stderr

    service = Service(desk, "noop", "--host", "0.0.0.0")
    try:
        assert service.http.get("/v1/models").status_code == 401
        client = openai.OpenAI(api_key=key, base_url=f"{service.http.base_url}/v1", max_retries=0)
        assert client.completions.create(model="noop", prompt="hello", max_tokens=4).choices[0].text == "hell"

        [listed] = json.loads(desk.run("keys", "list", "-o", "json").stdout)
        assert (listed["tenant"], listed["is_admin"], listed["status"]) == ("team", False, "active")
        assert listed["last_used_at"] is not None
        assert desk.run("keys", "revoke", listed["id"]).returncode == 0
        wait_until(lambda: service.http.get("/v1/models", headers={"authorization": f"Bearer {key}"}).is_client_error)
        with pytest.raises(openai.AuthenticationError, match="not valid"):
            client.models.list()
    finally:
        service.close()
    assert key[12:] not in (desk.folder / ".batchmill" / "worker.log").read_text()


def test_unknown_key_cannot_be_revoked(desk: Desk) -> None:
    refused = desk.run("keys", "revoke", "nothing1")

    assert refused.returncode == 1
    assert "batchmill keys list" in refused.stderr


def test_shared_database_is_not_upgraded_in_passing(desk: Desk) -> None:
    refused = desk.run("keys", "create", "team", DATABASE_URL=f"sqlite:///{desk.folder}/shared.db")

    assert refused.returncode == 1
    assert refused.stdout == ""
    assert "batchmill db upgrade" in refused.stderr
