"""Where uploaded bytes are kept: a folder, or an object store by URL (s3://bucket/prefix). Knows no table.

A blob's path is aa/bb/<uuid> below the root, made from an id of ours: no name that a user chose reaches a file system.
A blob appears whole at the end of its writing, or not at all.
"""

import errno
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast
from uuid import UUID, uuid4

import fsspec
from fsspec.spec import AbstractBufferedFile

from models.errors import BlobsUnavailable, ConfigurationError, NotFound, StorageFull

INCOMING = "incoming"  # in a folder, what is still being written; the same file system, so that a rename is enough
MAX_AGE_SECONDS = 86_400.0  # of something still being written; older is what a killed process left
BLOCK_BYTES = 8 << 20  # sent or fetched at once; S3 takes 5 MiB and more, s3fs's own 50 MiB are memory for nothing
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class BlobWriter(ABC):
    """Bytes on their way into a blob. Leaving the block commits; an exception discards."""

    @abstractmethod
    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes. Raises StorageFull, BlobsUnavailable."""

    @abstractmethod
    def commit(self) -> None:
        """Make the blob appear, durably. Raises StorageFull, BlobsUnavailable."""

    @abstractmethod
    def discard(self) -> None:
        """Leave nothing behind; also after a commit."""

    def __enter__(self) -> "BlobWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.commit()
        else:
            self.discard()


class Blobs:
    """One folder or one bucket's prefix. Safe to share between threads. Nothing is connected before the first use."""

    def __init__(self, url: str) -> None:
        """Raises ConfigurationError where the URL's kind is unknown or needs a package that is not installed."""
        self.is_folder = "://" not in url or url.startswith("file://")
        self._fs, self._root = _file_system(url)

    def prepare(self) -> None:
        """Make the folder and try to write; to be called before serving. Raises ConfigurationError."""
        probe = uuid4()
        try:
            with self.writer(probe) as writer:
                writer.write(b"batchmill")
            self.delete(probe)
        except (BlobsUnavailable, StorageFull, NotFound) as error:
            reason = " ".join(str(error.__cause__ or error).split())[:200]
            raise ConfigurationError(f"the file storage of BATCHMILL_BLOB_URL cannot be written: {reason}") from error

    def writer(self, id: UUID) -> BlobWriter:
        """Begin a blob."""
        if self.is_folder:
            return _FolderWriter(Path(self._root), Path(self._path(id)))
        return _ObjectWriter(self._fs, self._path(id))

    def open(self, id: UUID) -> BinaryIO:
        """Open a blob for reading; it can seek. Raises NotFound, BlobsUnavailable."""
        with _errors():
            return cast(BinaryIO, self._fs.open(self._path(id), "rb", block_size=BLOCK_BYTES))

    def delete(self, id: UUID) -> None:
        """Remove a blob; one that is not there is fine."""
        with _errors(), suppress(FileNotFoundError):
            self._fs.rm_file(self._path(id))

    def remove_abandoned(self, older_than_seconds: float = MAX_AGE_SECONDS) -> int:
        """Remove what killed processes left half written in a folder; returns how many.

        In an object store a half upload is no object: its own rule for incomplete uploads removes it.
        """
        if not self.is_folder:
            return 0
        with _errors():
            return sum(_remove_if_older(path, older_than_seconds) for path in (Path(self._root) / INCOMING).glob("*"))

    def _path(self, id: UUID) -> str:
        # The last digits: the first ones of a UUIDv7 are its time, the same for all files of a day.
        return f"{self._root}/{id.hex[-2:]}/{id.hex[-4:-2]}/{id}"


class _FolderWriter(BlobWriter):
    """To a temporary name, fsync, rename, fsync of the folder."""

    def __init__(self, root: Path, target: Path) -> None:
        self._target = target
        self._incoming = root / INCOMING / target.name
        with _errors():
            self._incoming.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            self._file = os.fdopen(os.open(self._incoming, flags, 0o600), "wb", buffering=0)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data)
        with _errors():
            while rest:
                rest = rest[self._file.write(rest) :]

    def commit(self) -> None:
        try:
            with _errors():
                os.fsync(self._file.fileno())
                self._file.close()
                self._target.parent.mkdir(parents=True, exist_ok=True)
                self._incoming.rename(self._target)
                for folder in self._target.parents[:3]:  # up to the root: each may be new
                    _sync_folder(folder)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        with suppress(OSError):  # a full disk may refuse even this; it was closed all the same
            self._file.close()
        self._incoming.unlink(missing_ok=True)
        self._target.unlink(missing_ok=True)


class _ObjectWriter(BlobWriter):
    """An object store's upload: an object appears at close."""

    def __init__(self, fs: Any, path: str) -> None:  # noqa: ANN401 - fsspec has no types
        self._fs, self._path = fs, path
        with _errors():
            self._file = fs.open(path, "wb", block_size=BLOCK_BYTES)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        with _errors():
            self._file.write(bytes(data))

    def commit(self) -> None:
        try:
            with _errors():
                self._file.close()
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        if isinstance(self._file, AbstractBufferedFile) and not self._file.closed:
            with _errors():
                self._file.discard()
            self._file.closed = True  # or its finaliser would complete the upload
        with _errors(), suppress(FileNotFoundError):
            self._fs.rm_file(self._path)


def _file_system(url: str) -> tuple[Any, str]:
    try:
        fs, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ConfigurationError(f"BATCHMILL_BLOB_URL needs a package that is not installed: {error}") from error
    except ValueError as error:
        raise ConfigurationError(f"BATCHMILL_BLOB_URL is no URL that fsspec understands: {error}") from error
    return fs, str(root).rstrip("/")


def _remove_if_older(path: Path, seconds: float) -> bool:
    with suppress(FileNotFoundError):  # its writer just finished
        if time.time() - path.stat().st_mtime > seconds:
            path.unlink()
            return True
    return False


def _sync_folder(folder: Path) -> None:
    """Make a rename last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _errors() -> Iterator[None]:
    """The storage's errors become ours, whichever library they come from."""
    try:
        yield
    except (NotFound, StorageFull, BlobsUnavailable):
        raise
    except FileNotFoundError as error:
        raise NotFound from error
    except Exception as error:
        kind = StorageFull if getattr(error, "errno", None) in FULL else BlobsUnavailable
        raise kind from error
