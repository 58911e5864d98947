"""How full the disks are on which the database and the uploaded files live, where they are this host's own."""

import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from models.engines import parse_url
from models.settings import Settings

LOOK_SECONDS = 1.0
ENOUGH_BYTES = 5 << 30  # on a big disk a share of it says nothing


class DiskWatch:
    """Looks at most once a second, whoever asks. Safe to share: the worst is a look too many."""

    def __init__(
        self, folders: Iterable[Path], min_free: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`min_free` is a share of each disk; more than ENOUGH_BYTES of one always counts as free enough."""
        self._folders, self._min_free, self._clock = tuple(folders), min_free, clock
        self._looked_at = -float("inf")
        self._full: Path | None = None

    def almost_full(self) -> Path | None:
        """A folder whose disk has less free than it should, or None."""
        if self._clock() - self._looked_at >= LOOK_SECONDS:
            self._full = next((folder for folder in self._folders if self._is_low(folder)), None)
            self._looked_at = self._clock()
        return self._full

    def _is_low(self, folder: Path) -> bool:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        usage = shutil.disk_usage(there)
        return usage.free < min(self._min_free * usage.total, ENOUGH_BYTES)


def watch_of(settings: Settings) -> DiskWatch:
    """A watch over SQLite's folder and the folder of the files; of a server or a bucket nothing is known here."""
    folders = []
    url = parse_url(settings.database)
    if url.get_backend_name() == "sqlite":
        folders.append(Path(url.database or "").resolve().parent)
    if "://" not in settings.blobs or settings.blobs.startswith("file://"):
        folders.append(Path(settings.blobs.removeprefix("file://")).resolve())
    return DiskWatch(folders, settings.min_free_disk)
