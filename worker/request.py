"""Celery's view of one message, without its arguments: they are prompts, and prompts stay out of logs and events."""

from typing import Any

from celery.worker.request import Request

HIDDEN = "-"


LINKS = ("callbacks", "chain", "errbacks")  # Celery's names for what is to follow a task, beside a chord's body


class QuietRequest(Request):
    """What a sender put into the message's headers for display is not displayed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 (Celery's)
        super().__init__(*args, **kwargs)
        embedded = self._payload[2] or {}
        self.request_dict["linked"] = any(embedded.get(name) for name in LINKS)

    @property
    def argsrepr(self) -> str:
        """Shown in logs and in task-received events."""
        return HIDDEN

    @property
    def kwargsrepr(self) -> str:
        """As argsrepr."""
        return HIDDEN

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Shown by `inspect active` and its like."""
        shown: dict[str, Any] = super().info(safe=safe)
        return shown | {"args": HIDDEN, "kwargs": HIDDEN}
