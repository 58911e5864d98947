"""A thread that clears away what is over: files, what killed uploads left behind, idempotency keys."""

import logging
import threading

from models.blobs import Blobs
from models.errors import BatchmillError
from models.file_store import FileStore
from models.store import Store

log = logging.getLogger(__name__)

PERIOD_SECONDS = 600.0
STOP_SECONDS = 5.0
ROWS_AT_ONCE = 100  # files a transaction
KEYS_AT_ONCE = 10_000


class Housekeeper:
    """Several services may do this at once: each takes other rows."""

    def __init__(self, files: FileStore, blobs: Blobs, store: Store) -> None:
        self._files, self._blobs, self._store = files, blobs, store
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

    def forget_keys(self) -> None:
        """Delete the keys of requests that are not repeated any more."""
        while not self._stopping.is_set() and self._store.forget_keys(KEYS_AT_ONCE) == KEYS_AT_ONCE:
            pass

    def _run(self) -> None:
        while True:
            try:
                num_files, num_abandoned = self.clear(), self._blobs.remove_abandoned()
                self.forget_keys()
            except BatchmillError as error:  # the next round may find the database or the storage back
                log.warning("cannot clear away what is over: %s", error, extra={"action": "housekeeping_failed"})
            else:
                if num_files or num_abandoned:
                    extra = {"action": "files_cleared", "num_files": num_files, "num_abandoned": num_abandoned}
                    log.info("deleted %d expired files, %d abandoned uploads", num_files, num_abandoned, extra=extra)
            if self._stopping.wait(PERIOD_SECONDS):
                return
