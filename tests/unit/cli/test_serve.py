"""What keeps the service from starting, said in one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("url", "says"), [("{}/file/blobs", "cannot be written"), ("nonsense://x", "nonsense")])
def test_file_storage_that_cannot_be_used_is_told_at_the_start(tmp_path: Path, url: str, says: str) -> None:
    (tmp_path / "file").write_text("no folder")
    environment = os.environ | {
        "BATCHMILL_BLOB_URL": url.format(tmp_path),
        "BATCHMILL_STATE_DIR": str(tmp_path / "state"),
    }

    command = [sys.executable, "-c", "from cli.main import main; main()", "api", "--port", "1"]
    ended = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=60
    )

    assert ended.returncode == 1
    assert "BATCHMILL_BLOB_URL" in ended.stderr
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
