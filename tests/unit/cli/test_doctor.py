"""What doctor says of the machine, and with which exit status."""

from pathlib import Path

import pytest

from cli.doctor import examine
from models.settings import load_settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own; no database, no Redis but the embedded one."""
    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "400")
    return tmp_path


def examined(home: Path, capsys: pytest.CaptureFixture[str], **settings: object) -> tuple[int, dict[str, str]]:
    """The exit status, and the line of each subject."""
    status = examine(load_settings(state_dir=home / "state", threads=1, **settings))
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    return status, {line.split("  ")[0]: " ".join(line.split()) for line in lines}


def test_sound_machine(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = examined(home, capsys, rows=8, dtype="float32", device="cpu")
    assert status == 0
    assert "8 rows, float32 on cpu, 1 thread; linear: oneDNN packed" in lines["engine"]
    assert lines["compiled code"] == f"compiled code ok kept in {home}/.cache/batchmill, which is private"


def test_missing_compiler_is_said_with_its_price(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(home))
    status, lines = examined(home, capsys, device="cpu")
    assert status == 0
    assert "note" in lines["compiler"]
    assert "half its rate" in lines["compiler"]
    assert "attention and operations: torch, since no C++ compiler" in lines["engine"]


def test_folder_that_others_may_write_to_is_wrong(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = home / ".cache" / "batchmill"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    status, lines = examined(home, capsys, device="cpu")
    assert status == 1
    assert f"others may write to {folder}" in lines["compiled code"]
    assert "since others may write to" in lines["engine"]


def test_cache_that_the_device_cannot_have_is_wrong(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = examined(home, capsys, device="cpu", kv_dtype="fp8")
    assert status == 1
    assert lines["engine"].startswith("engine wrong kv_dtype fp8 needs a CUDA device")


def test_missing_model_is_said_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = examined(home, capsys, model=str(home / "none"))
    assert status == 1
    wrong = [line for line in lines.values() if "wrong" in line]
    assert wrong == [f"model wrong there is no model folder at {home}/none"]


def test_file_storage_that_was_named_is_tried(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "file").write_text("no folder")

    assert "ok" in examined(home, capsys, device="cpu")[1]["files"]
    assert "ok" in examined(home, capsys, device="cpu", blob_url=str(home / "blobs"))[1]["files"]
    status, lines = examined(home, capsys, device="cpu", blob_url=str(home / "file" / "blobs"))
    assert status == 1
    assert "wrong the file storage of BATCHMILL_BLOB_URL cannot be written" in lines["files"]
