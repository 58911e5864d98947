"""The official client against `batchmill serve`: the version that is installed here, and the older ones beside it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.served import Served

DRIVE = Path(__file__).with_name("drive.py")
OLDER = ("1.109.1", "2.54.0")


def drive(python: str, served: Served, version: str) -> None:
    done = subprocess.run(
        [python, str(DRIVE), served.url, "demo"], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"openai {version}")


@pytest.mark.timeout(300)
def test_the_newest_client(served: Served) -> None:
    drive(sys.executable, served, "3.")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", OLDER)
def test_an_older_client(served: Served, tmp_path: Path, version: str) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path)], check=True)
    python = str(tmp_path / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"openai=={version}"], check=True)
    drive(python, served, version)
