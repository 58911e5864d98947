"""The client examples, run as their reader would: against `batchmill serve` with the demo model."""

import re
import subprocess
import sys
from pathlib import Path

from tests.acceptance.served import Served

CLIENTS = Path(__file__).parents[2] / "examples" / "clients"


def test_openai_bulk(served: Served) -> None:
    shown = served.run(sys.executable, str(CLIENTS / "openai_bulk.py"))
    assert "completed: 4 of 4 done, 0 failed" in shown
    assert re.search(r"^json\.dumps: \S+", shown, re.MULTILINE)


def test_openai_polling(served: Served) -> None:
    first, second, answer = served.run(sys.executable, str(CLIENTS / "openai_polling.py")).split("\n", 2)
    assert re.fullmatch(r"chatcmpl-\w+ queued", first)
    assert second.startswith("completed {'prompt_tokens': ")
    assert answer.strip()


def test_asyncio_jobs(served: Served) -> None:
    shown = served.run(sys.executable, str(CLIENTS / "asyncio_jobs.py"), "200")
    assert shown.splitlines()[0] == "200 jobs accepted"
    assert shown.splitlines()[-1] == "{'completed': 200}"


def test_curl(served: Served) -> None:
    shown = served.run("bash", str(CLIENTS / "curl.sh")).splitlines()
    assert shown[0] == "completed"
    assert '"text_completion"' in shown[1]
    assert ['"one"' in shown[2], '"two"' in shown[3]] == [True, True]


def test_celery_service(served: Served) -> None:
    with (served.folder / "celery.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "celery_service", "worker", "--pool", "solo"],
            cwd=served.folder,
            env=served.environment,
            stdout=log,
            stderr=log,
        )
    try:
        assert served.run(sys.executable, str(CLIENTS / "celery_service.py")).strip()
    finally:
        worker.terminate()
        worker.wait(30)
