"""A thread that clears away files whose time is over and what killed uploads left behind."""

import logging
import threading

from models.blobs import Blobs
from models.errors import BatchmillError
from models.file_store import FileStore

log = logging.getLogger(__name__)

PERIOD_SECONDS = 600.0
STOP_SECONDS = 5.0
ROWS_AT_ONCE = 100  # files a transaction


class Housekeeper:
    """Several services may do this at once: each takes other rows."""

    def __init__(self, files: FileStore, blobs: Blobs) -> None:
        self._files, self._blobs = files, blobs
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeper", daemon=True)

    def start(self) -> None:
        """Begin, at once with a first round."""
        self._thread.start()

    def stop(self) -> None:
        """End after the files at hand; storage that does not answer is not waited for."""
        self._stopping.set()
        self._thread.join(STOP_SECONDS)

    def clear(self) -> int:
        """Delete expired files, rows before bytes; returns how many."""
        num_files = 0
        while not self._stopping.is_set():
            expired = self._files.expire(ROWS_AT_ONCE)
            for file in expired:
                if file.batch_id is None:
                    self._blobs.delete(file.id)
            num_files += len(expired)
            if len(expired) < ROWS_AT_ONCE:
                break
        return num_files

    def _run(self) -> None:
        while True:
            try:
                num_files, num_abandoned = self.clear(), self._blobs.remove_abandoned()
            except BatchmillError as error:  # the next round may find the database or the storage back
                log.warning("cannot clear away old files: %s", error, extra={"action": "housekeeping_failed"})
            else:
                if num_files or num_abandoned:
                    extra = {"action": "files_cleared", "num_files": num_files, "num_abandoned": num_abandoned}
                    log.info("deleted %d expired files, %d abandoned uploads", num_files, num_abandoned, extra=extra)
            if self._stopping.wait(PERIOD_SECONDS):
                return
