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


def test_lines_of_one_worker_among_several_name_its_device() -> None:
    settings = load_settings(device_name="cuda:3")
    assert " WARNING [cuda:3] worker.keeper 3 rows" in formatter(settings).format(record())
    line = json.loads(formatter(settings.model_copy(update={"log_format": "json"})).format(record()))
    assert line["device"] == "cuda:3"
    assert "device" not in json.loads(JsonFormatter().format(record()))


def test_form_follows_the_setting() -> None:
    assert isinstance(formatter(load_settings(log_format="json")), JsonFormatter)
    assert not isinstance(formatter(load_settings()), JsonFormatter)
