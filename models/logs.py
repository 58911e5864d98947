"""Log lines for people or for machines. Every line of ours has an action; none has a prompt, an output or a key."""

import logging
import sys
from datetime import UTC, datetime

import orjson

from models.settings import Settings

UNHEALTHY = "unhealthy: "  # begins the line with which a worker says why its device gets no more rows
READY = "ready: "  # begins the line with which a worker says what it runs; whoever started it looks for that
CONSOLE = "%(asctime)s %(levelname)s %(name)s %(message)s"
CONSOLE_OF_ONE = "%(asctime)s %(levelname)s [%(worker_device)s] %(name)s %(message)s"  # of the workers of a supervisor
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "data",
}  # data: Celery's, holds arguments


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts, level, logger, event, and what was given as `extra`. `device` marks every line."""

    def __init__(self, *, device: str | None = None) -> None:
        super().__init__()
        self._mark = {} if device is None else {"device": device}

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        line = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        } | self._mark
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def set_up(settings: Settings, *, level: int = logging.INFO) -> None:
    """Send this process's log to stderr in the form the settings ask for."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(settings))
    logging.basicConfig(handlers=[handler], level=level, force=True)


def formatter(settings: Settings) -> logging.Formatter:
    """The form the settings ask for; where several workers share a terminal each line names its device."""
    device = settings.device_name
    if settings.log_format == "json":
        return JsonFormatter(device=device)
    return logging.Formatter(CONSOLE if device is None else CONSOLE_OF_ONE, defaults={"worker_device": device})
