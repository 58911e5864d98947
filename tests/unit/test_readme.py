"""What the README shows of the engine alone runs, without the service's libraries; its links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SERVICE = ("celery", "kombu", "redis", "sqlalchemy", "alembic", "psycopg", "fastapi", "pydantic", "typer")
MAX_LINES = 6


def engine_block() -> str:
    section = README.partition("## The engine alone\n")[2]
    return section.partition("```python\n")[2].partition("```")[0]


def run_without(modules: tuple[str, ...], code: str) -> "subprocess.CompletedProcess[str]":
    """Run code in a process that fails on importing these modules, and finds nobody's environment."""
    blocked = f"import sys; sys.modules |= dict.fromkeys({modules!r})\n"
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LD_LIBRARY_PATH") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-c", blocked + code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment | {"OMP_NUM_THREADS": "1"},
        timeout=100,
        check=False,
    )


def test_engine_runs_alone_in_six_lines() -> None:
    block = engine_block()
    done = run_without(SERVICE, block)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "1  Serialize 'obj' to a JSON formatted 'str'."
    assert done.stdout.splitlines()[1].startswith("2  Return")
    assert len([line for line in block.splitlines() if line]) <= MAX_LINES


def test_blocked_modules_are_blocked() -> None:
    assert run_without(SERVICE, "import worker.celery_app").returncode == 1


def test_links_lead_to_files() -> None:
    links = [link for link in re.findall(r"[^!]\[[^]]+\]\(([^)#]+)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []
