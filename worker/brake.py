"""Reasons to claim nothing more for now. What was claimed is decoded to its end; other workers may take the rest."""

import logging
from collections.abc import Callable

from models.disk import DiskWatch

log = logging.getLogger(__name__)


class Brake:
    """Set while results pile up that the database does not take, and while a disk is almost full."""

    def __init__(self, disk: DiskWatch, *, is_behind: Callable[[], bool]) -> None:
        self._disk, self._is_behind = disk, is_behind
        self._reason: str | None = None

    @property
    def reason(self) -> str | None:
        """Why nothing should be claimed; None: go on."""
        reason = self._find()
        if reason != self._reason:
            self._reason = reason
            if reason is not None:
                log.warning("claiming nothing: %s", reason, extra={"action": "claiming_paused"})
            else:
                log.info("claiming again", extra={"action": "claiming_resumed"})
        return reason

    def _find(self) -> str | None:
        if self._is_behind():
            return "too many results wait for the database"
        folder = self._disk.almost_full()
        return None if folder is None else f"the disk of {folder} is almost full"
