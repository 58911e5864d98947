"""The demo model's text: one line an entry, "json.dumps: Serialize obj to a JSON formatted str.".

The text is Python's own documentation, under the PSF licence. Knows nothing of tokens or tensors.
"""

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_HARVEST = Path(__file__).with_name("harvest.py")
_METHOD = re.compile(r"[\w.]+\.[A-Z]\w*\.\w+")  # of a class in CapWords


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """A name of the standard library and its one-line summary."""

    name: str
    summary: str

    @property
    def prompt(self) -> str:
        """The part a user types."""
        return f"{self.name}:"

    @property
    def line(self) -> str:
        """Prompt and answer, as the model is trained on them."""
        return f"{self.name}: {self.summary}"


def standard_library_entries() -> list[Entry]:
    """Read the running interpreter's documentation in a fresh process of it, sorted by name.

    The result depends on the interpreter alone: not on hash seeds, installed packages or what is imported here.
    Raises RuntimeError where the interpreter cannot be started or carries no documentation.
    """
    command = [sys.executable, "-I", "-S", str(_HARVEST)]  # no user settings, no site-packages and their hooks
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"cannot read the standard library: {done.stderr.decode(errors='replace')[-500:]}")
    entries = [Entry(name, summary) for name, summary in json.loads(done.stdout)]
    if not entries:
        raise RuntimeError("this Python carries no documentation of its standard library")
    return entries


def in_validation(entry: Entry, *, percent: int) -> bool:
    """Whether an entry is held out: a share of the methods ("pathlib.Path.touch"), by hash of the summary.

    By the summary, so that twins stay on one side; methods only, so that the demo knows every module and function.
    """
    digest = hashlib.sha256(entry.summary.encode()).digest()
    return bool(_METHOD.fullmatch(entry.name)) and int.from_bytes(digest[:4], "big") % 100 < percent
