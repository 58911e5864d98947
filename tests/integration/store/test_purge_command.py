"""`batchmill db purge` on a database of both kinds: it counts without deleting, deletes, and says what."""

import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from cli.purging import purge
from models.batch_store import BatchStore
from models.claims import Claims
from models.database import Database
from models.errors import ConfigurationError
from models.settings import load_settings
from models.store import Store
from tests.integration.store.aging import num_rows
from tests.integration.store.test_retention import finished, finished_batch


def test_purge_counts_first_and_deletes_then(
    database_url: str, database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_settings(database_url=SecretStr(database_url), state_dir=tmp_path, keep_inputs_days=7)
    claims = Claims(database)
    for days in (10, 40, 80):
        finished(Store(database), claims, days=days)
    finished_batch(BatchStore(database), claims, days=40)
    before = num_rows(database)
    would = {"batch rows": 3, "batches": 1, "job inputs": 6, "job results": 2, "jobs": 1}

    purge(settings, older_than="30d", inputs_older_than=None, dry_run=True)
    assert json.loads(capsys.readouterr().out) == {"would_delete": would}
    assert num_rows(database) == before

    purge(settings, older_than="30d", inputs_older_than=None, dry_run=False)
    assert json.loads(capsys.readouterr().out) == {"deleted": would | {"job inputs": 1}}, "the others went as a whole"
    assert num_rows(database) == {"batches": 1, "jobs": 2, "payloads": 1, "completions": 1, "job_metadata": 1} | {
        "idempotency": 2
    }

    purge(settings, older_than="30d", inputs_older_than=None, dry_run=False)
    assert json.loads(capsys.readouterr().out) == {"deleted": {}}


def test_age_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--older-than"):
        purge(load_settings(state_dir=tmp_path), older_than="soon", inputs_older_than=None, dry_run=True)
