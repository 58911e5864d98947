"""Log lines for machines."""

import json
import logging

from models.logs import JsonFormatter, formatter
from models.settings import load_settings


def record(**extra: object) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": "worker.keeper", "levelname": "WARNING", "msg": "%d rows", "args": (3,), **extra}
    )


def test_json_line_carries_the_action_beside_the_event() -> None:
    line = json.loads(JsonFormatter().format(record(action="reaped", data={"kwargs": "a prompt"})))
    assert (line["level"], line["event"], line["action"]) == ("warning", "3 rows", "reaped")
    assert "data" not in line


def test_form_follows_the_setting() -> None:
    assert isinstance(formatter(load_settings(log_format="json")), JsonFormatter)
    assert not isinstance(formatter(load_settings()), JsonFormatter)
