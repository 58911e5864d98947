"""Blobs in a folder and in an object store (fsspec's memory:// stands in for S3)."""

import errno
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.blobs import INCOMING, Blobs
from models.errors import BlobsUnavailable, ConfigurationError, NotFound, StorageFull
from models.ids import uuid7


@pytest.fixture(params=["folder", "file URL", "object store"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    urls = {
        "folder": str(tmp_path / "a b#c"),
        "file URL": f"file://{tmp_path / 'files'}",
        "object store": f"memory://{uuid.uuid4().hex}",
    }
    return Blobs(urls[request.param])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "files"


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_blob_is_read_as_it_was_written(blobs: Blobs) -> None:
    id = uuid7()
    with blobs.writer(id) as writer:
        for piece in (b"one ", memoryview(b"xtwo")[1:], bytearray(b" three")):
            writer.write(piece)

    with blobs.open(id) as stream:
        assert stream.read() == b"one two three"
        stream.seek(4)
        assert stream.read(3) == b"two"


def test_empty_blob_is_one(blobs: Blobs) -> None:
    id = uuid7()
    with blobs.writer(id):
        pass

    with blobs.open(id) as stream:
        assert stream.read() == b""


def test_failed_write_leaves_nothing(blobs: Blobs) -> None:
    id = uuid7()

    def fail() -> None:
        with blobs.writer(id) as writer:
            writer.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()

    with pytest.raises(NotFound):
        blobs.open(id)


def test_blob_is_gone_once_discarded(blobs: Blobs) -> None:
    """Even after it was committed: its row could not be stored."""
    writer = blobs.writer(uuid7())
    writer.write(b"x")
    writer.commit()
    writer.discard()


def test_deleted_blob_is_not_found(blobs: Blobs) -> None:
    id = uuid7()
    with blobs.writer(id) as writer:
        writer.write(b"x")

    blobs.delete(id)
    blobs.delete(id)

    with pytest.raises(NotFound):
        blobs.open(id)


def test_storage_that_can_be_written_is_prepared(blobs: Blobs) -> None:
    blobs.prepare()


def test_blob_appears_whole_or_not_at_all(folder: Path) -> None:
    """In a folder: what is being written stands elsewhere until it is renamed."""
    blobs, id = Blobs(str(folder)), uuid7()
    writer = blobs.writer(id)
    writer.write(b"half")

    with pytest.raises(NotFound):
        blobs.open(id)
    assert [path.parent.name for path in files_in(folder)] == [INCOMING]

    writer.commit()
    assert [path.relative_to(folder).parts[2] for path in files_in(folder)] == [str(id)]


def test_path_is_made_from_the_id_alone(folder: Path) -> None:
    id = uuid.UUID("01990000-0000-7000-8000-00000000abcd")
    with Blobs(str(folder)).writer(id):
        pass

    assert (folder / "cd" / "ab" / str(id)).is_file()


def test_blobs_are_for_their_owner_alone(folder: Path) -> None:
    with Blobs(str(folder)).writer(uuid7()):
        pass

    assert [path.stat().st_mode & 0o777 for path in files_in(folder)] == [0o600]


def test_blob_is_on_the_disk_before_it_is_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync of the bytes, rename, fsync of the folders: a power cut leaves the whole blob or none."""
    steps: list[str] = []
    sync, rename = os.fsync, Path.rename

    def noted_sync(descriptor: int) -> None:
        steps.append("sync")
        sync(descriptor)

    def noted_rename(path: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "rename", noted_rename)

    with Blobs(str(folder)).writer(uuid7()):
        pass

    assert steps == ["sync", "rename", "sync", "sync", "sync"]


def test_abandoned_upload_is_removed(folder: Path) -> None:
    """A process killed in the middle of a write leaves a temporary; a day later it goes, a younger one stays."""
    blobs = Blobs(str(folder))
    abandoned, going_on = blobs.writer(uuid7()), blobs.writer(uuid7())
    for writer in (abandoned, going_on):
        writer.write(b"half")
    [first, second] = sorted((folder / INCOMING).iterdir())
    a_day_ago = time.time() - 86_401
    os.utime(first, (a_day_ago, a_day_ago))

    assert blobs.remove_abandoned() == 1
    assert list((folder / INCOMING).iterdir()) == [second]
    going_on.discard()
    abandoned.discard()


def test_nothing_is_abandoned_where_nothing_was_written(blobs: Blobs) -> None:
    assert blobs.remove_abandoned() == 0


def test_full_disk_is_told_and_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    blobs = Blobs(str(folder))
    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(StorageFull), blobs.writer(uuid7()) as writer:
        writer.write(b"x")
    assert files_in(folder) == []


def test_short_write_is_finished(folder: Path) -> None:
    """The system may take less than it is given: a pipe or a nearly full disk does."""
    blobs, id, data = Blobs(str(folder)), uuid7(), os.urandom(3_000_000)
    with blobs.writer(id) as writer:
        file = writer._file  # type: ignore[attr-defined]
        writer._file = _Reluctant(file)  # type: ignore[attr-defined]
        writer.write(data)

    with blobs.open(id) as stream:
        assert stream.read() == data


class _Reluctant:
    """A file that writes at most a million bytes at once."""

    def __init__(self, file: Any) -> None:  # noqa: ANN401
        self._file = file
        self.fileno: Callable[[], int] = file.fileno
        self.close: Callable[[], None] = file.close

    def write(self, data: memoryview) -> int:
        return int(self._file.write(data[:1_000_000]))


def test_writers_do_not_meet(folder: Path) -> None:
    blobs, ids = Blobs(str(folder)), [uuid7() for _ in range(8)]

    def write(id: uuid.UUID) -> None:
        with blobs.writer(id) as writer:
            for _ in range(100):
                writer.write(id.bytes)

    threads = [threading.Thread(target=write, args=[id]) for id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(blobs.open(id).read() == id.bytes * 100 for id in ids)


@pytest.mark.parametrize(
    ("url", "says"),
    [("s3://bucket/prefix", "s3fs"), ("nonsense://bucket", "nonsense")],
)
def test_unusable_url_says_what_to_do(url: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)  # as where it is not installed

    with pytest.raises(ConfigurationError, match=says):
        Blobs(url)


def test_storage_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")

    with pytest.raises(ConfigurationError, match="BATCHMILL_BLOB_URL"):
        Blobs(str(tmp_path / "file" / "blobs")).prepare()


def test_storage_that_fails_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = Blobs(str(folder))
    blobs.prepare()
    (folder / INCOMING).rmdir()
    (folder / INCOMING).write_text("in the way")

    with pytest.raises(BlobsUnavailable):
        blobs.writer(uuid7())
