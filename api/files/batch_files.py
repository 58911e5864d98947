"""A batch's output and error files: streams over its rows in input order, made as they are read and stored nowhere.

Memory is one page of rows, whatever the batch: pages are sized by what the rows before them weighed.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import merge
from uuid import UUID

import orjson

from api.rendering.bodies import Json, error_line, output_line
from models.batch_store import BatchStore
from models.errors import NotFound
from models.records import BatchRecord, JobRecord
from models.status import FINAL_BATCH, Status

FIRST_PAGE, MAX_PAGE = 64, 500  # rows
PAGE_BYTES = 4 << 20  # of rows read at a time, about
CHUNK_BYTES = 256 << 10  # handed on at a time
GZIP_LEVEL = 1  # the quickest; JSON lines shrink to a fifth with it
GZIP_WINDOW = 31  # zlib's word for the gzip format


@dataclass(frozen=True, slots=True)
class BatchFile:
    """One of a batch's two files, as its rows stand now."""

    batches: BatchStore
    batch: BatchRecord
    is_output: bool

    @classmethod
    def of(cls, batches: BatchStore, batch: BatchRecord, file_id: UUID) -> "BatchFile":
        """The file that an id of the batch names."""
        return cls(batches, batch, is_output=batch.output_file_id == file_id)

    @property
    def is_whole(self) -> bool:
        """Whether the bytes are the same from now on."""
        return self.batch.status in FINAL_BATCH

    @property
    def num_lines(self) -> int:
        """How many lines it has so far."""
        return sum(number for _, number in self._parts())

    def chunks(self) -> Iterator[bytes]:
        """The file's bytes. Reads the database: to be iterated on a thread.

        Raises NotFound, at the latest at the end, where the batch is deleted meanwhile: what came must not look whole.
        """
        gathered: list[bytes] = []
        num_bytes = num_lines = 0
        for line in self._all_lines():
            num_lines += 1
            gathered.append(line)
            num_bytes += len(line)
            if num_bytes >= CHUNK_BYTES:
                yield b"".join(gathered)
                gathered, num_bytes = [], 0
        if num_lines < self.num_lines:  # a row that is final stays so: there may be more by now, and never fewer
            raise NotFound
        if gathered:
            yield b"".join(gathered)

    def _all_lines(self) -> Iterator[bytes]:
        render = output_line if self.is_output else error_line
        parts = [_lines(self.batches, self.batch.id, status, render) for status, number in self._parts() if number]
        return (line for _, line in merge(*parts))  # line numbers differ, so that texts are never compared

    def _parts(self) -> list[tuple[Status, int]]:
        batch = self.batch
        if self.is_output:
            return [(Status.COMPLETED, batch.num_completed)]
        return [
            (Status.FAILED, batch.num_failed),
            (Status.CANCELLED, batch.num_cancelled),
            (Status.EXPIRED, batch.num_expired),
        ]


def measured(chunks: Iterator[bytes], done: Callable[[int], object]) -> Iterator[bytes]:
    """The chunks, and after the last one `done` with the number of their bytes."""
    num_bytes = 0
    for chunk in chunks:
        num_bytes += len(chunk)
        yield chunk
    done(num_bytes)


def cut_out(chunks: Iterator[bytes], start: int, stop: int) -> Iterator[bytes]:
    """The bytes from `start` to before `stop`; an empty chunk for each that is skipped."""
    place = 0
    for chunk in chunks:
        yield chunk[max(0, start - place) : stop - place]
        place += len(chunk)
        if place >= stop:
            return


def gzipped(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks, compressed as one gzip stream; an empty one where nothing is to be sent yet."""
    packer = zlib.compressobj(GZIP_LEVEL, wbits=GZIP_WINDOW)
    for chunk in chunks:
        yield packer.compress(chunk)
    yield packer.flush()


def _lines(
    batches: BatchStore, batch_id: UUID, status: Status, render: Callable[[JobRecord], Json]
) -> Iterator[tuple[int, bytes]]:
    """The rows of one status in input order: (line number, rendered line)."""
    limit, after = FIRST_PAGE, -1
    while True:
        page = batches.results(batch_id, after_line=after, limit=limit, status=status)
        weight = 1
        for job in page:
            assert job.line is not None, "rows of a batch have one"
            after = job.line
            text = orjson.dumps(render(job), option=orjson.OPT_APPEND_NEWLINE)
            weight += len(text) + len(job.payload)
            yield after, text
        if len(page) < limit:
            return
        limit = max(1, min(MAX_PAGE, PAGE_BYTES * len(page) // weight))
