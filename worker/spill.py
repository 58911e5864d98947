"""Finished rows on disk, when more wait for the database than memory should hold.

The file has no name: it is gone with the process that wrote it, however that ends. So nobody reads it but its writer,
what it holds of users' texts is never left behind, and a crash costs what it always costs: the rows run again.
Nothing is synced, since a crash of the system is no better.
"""

import os
import tempfile
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, NamedTuple

from models.packing import (
    dump_json,
    load_json,
    pack_logprobs,
    pack_token_ids,
    unpack_logprobs,
    unpack_token_ids,
)
from models.records import CompletionRecord, JobError, Outcome
from models.status import Status
from worker.deliveries import FinishedRow, Row


class _Place(NamedTuple):
    """Where a row's outcome lies. The row itself stays in memory: it is held until its result is committed."""

    row: Row
    num_bytes: int


class Spill:
    """A queue of finished rows in a file of `folder`: JSON lines, first in, first out. Not safe to share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._places: deque[_Place] = deque()
        self._read_to = self._written_to = 0  # byte offsets

    def __len__(self) -> int:
        return len(self._places)

    def put(self, finished: FinishedRow) -> None:
        """Append. Raises OSError where the disk does not take it; the queue is then as it was."""
        line = dump_json(_values(finished.outcome)).encode() + b"\n"
        if self._file is None:
            # 0600, and without a name
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (closed by close)
        done = 0
        while done < len(line):  # what a full disk leaves half written is written over by the next
            done += os.pwrite(self._file.fileno(), line[done:], self._written_to + done)
        self._written_to += len(line)
        self._places.append(_Place(finished.row, len(line)))

    def take(self) -> FinishedRow:
        """Remove the oldest; with the last one the disk gets its room back. Raises OSError."""
        assert self._file is not None, "there is one for every place"
        row, num_bytes = self._places[0]
        line = os.pread(self._file.fileno(), num_bytes, self._read_to)
        if len(line) < num_bytes:
            raise OSError("the file of results that wait for the database was cut short")
        self._places.popleft()
        self._read_to += num_bytes
        if not self._places:
            self.close()
        return FinishedRow(row, _outcome(row, load_json(line.decode())))

    def close(self) -> None:
        """Give the disk its room back, and forget what is left."""
        if self._file is not None:
            self._file.close()
        self._places.clear()
        self._file, self._read_to, self._written_to = None, 0, 0


def _values(outcome: Outcome) -> dict[str, Any]:
    return {
        "status": outcome.status,
        "error": None if outcome.error is None else asdict(outcome.error),
        "num_prompts": outcome.num_prompts,
        "completions": [_completion_values(completion) for completion in outcome.completions],
    }


def _completion_values(completion: CompletionRecord) -> dict[str, Any]:
    """Its fields, the long lists as the table has them; the time is the database's to say."""
    values = {name: getattr(completion, name) for name in CompletionRecord.__slots__ if name != "created_at"}
    values["token_ids"] = pack_token_ids(completion.token_ids).hex()
    if completion.logprobs is not None:
        values["logprobs"] = pack_logprobs(completion.logprobs).hex()
    if completion.prompt_token_ids is not None:
        values["prompt_token_ids"] = pack_token_ids(completion.prompt_token_ids).hex()
    return values


def _outcome(row: Row, values: dict[str, Any]) -> Outcome:
    return Outcome(
        row.job.id,
        row.job.attempt,
        Status(values["status"]),
        tuple(_completion(value) for value in values["completions"]),
        None if values["error"] is None else JobError(**values["error"]),
        values["num_prompts"],
    )


def _completion(values: dict[str, Any]) -> CompletionRecord:
    logprobs, prompt = values["logprobs"], values["prompt_token_ids"]
    return CompletionRecord(
        **values
        | {
            "token_ids": unpack_token_ids(bytes.fromhex(values["token_ids"])),
            "logprobs": None if logprobs is None else unpack_logprobs(bytes.fromhex(logprobs)),
            "prompt_token_ids": None if prompt is None else unpack_token_ids(bytes.fromhex(prompt)),
        }
    )
