"""Who runs: the queue, admission to free rows, compaction. Host only: holds no tensors and imports no torch."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from worker.engine.cache import Need, Room
from worker.engine.sequence import Sequence

# While more prompts wait, freed rows never stand empty for more than this many steps.
MAX_HELD_STEPS = 16
# First the rows are filled, then they all decode; but rows wait no longer than this for others to be admitted.
MAX_FILLING_STEPS = 8


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is prefilled at a time."""

    admit_tokens: int  # prompt tokens computed before the next decode step, or the next look at who was cancelled
    refill_share: int  # while more prompts wait, freed rows are filled so large a part of all rows at a time, as 1 / n


# One prompt alone does not fill a matrix product.
CPU_PACE = Pace(admit_tokens=2048, refill_share=16)
# Nor do 2,000 tokens fill a GPU's, and every prefill keeps it from decoding: in bursts.
GPU_PACE = Pace(admit_tokens=16384, refill_share=8)


@dataclass(slots=True)
class Scheduler:
    """Waiting sequences in order of arrival, live ones by row. Invariant: rows [0, num_live) are live, no holes."""

    max_rows: int
    room: Callable[..., Room]  # what the cache has left beside live rows: Cache.room
    cost: Callable[[Sequence], int]  # prompt tokens that must be computed
    waiting: deque[Sequence] = field(default_factory=deque)
    live: list[Sequence] = field(default_factory=list)
    num_held_steps: int = 0  # steps since which freed rows stand empty
    limit: int = 0  # rows that memory is known to hold, max_rows unless that was too many
    cut_short: bool = False  # whether the last admission stopped at its token limit: there is more to admit
    num_filling_steps: int = 0  # steps since which no row was decoded
    reserving: bool = False  # whether only rows are admitted that fit to their ends, since some that were live did not
    pace: Pace = CPU_PACE

    def __post_init__(self) -> None:
        self.limit = self.limit or self.max_rows

    def add(self, sequences: list[Sequence]) -> None:
        """Queue the sequences of a request behind those that wait."""
        self.waiting.extend(sequences)

    @property
    def num_wanted(self) -> int:
        """How many more to queue at a time, until more prompt tokens wait than one step admits."""
        if sum(map(self.cost, self.waiting)) > self.pace.admit_tokens:
            return 0
        return max(self.limit // self.pace.refill_share, 1)

    def requeue(self, sequences: list[Sequence]) -> None:
        """Queue sequences that must begin anew before those that wait."""
        self.waiting.extendleft(reversed(sequences))

    def cancel(self, request_id: str) -> None:
        """Drop a request's waiting sequences, and mark its live ones to leave at the next step."""
        self.waiting = deque(sequence for sequence in self.waiting if sequence.request_id != request_id)
        for sequence in self.live:
            sequence.cancelled |= sequence.request_id == request_id

    def admit(self) -> list[Sequence]:
        """Move sequences to free rows, in order of arrival, and give them longest prompt first.

        Stops at the limit of prompt tokens or the cache's; one sequence is always taken when no row is live. The beams
        of a request are taken together.
        """
        admitted: list[Sequence] = []
        self.cut_short = False
        if self._holds_back():
            return admitted
        num_tokens, begun = 0, set[str]()
        room = self.room([_need(sequence) for sequence in self.live], optimistic=not self.reserving)
        while self.waiting:
            sequence = self.waiting[0]
            together = max(sequence.num_beams, 1)
            num_rows = len(self.live) + len(admitted) + together
            alone = num_rows == together
            if num_rows > (self.max_rows if alone else self.limit):
                break
            num_tokens += self.cost(sequence)
            needs = _needs(sequence, together, is_shared=sequence.request_id in begun)
            self.cut_short = bool(admitted) and num_tokens > self.pace.admit_tokens
            if self.cut_short or not (alone or room.fits(needs)):
                break
            room.take(needs)
            begun.add(sequence.request_id)
            admitted += [self.waiting.popleft() for _ in range(together)]
        admitted.sort(key=lambda sequence: -len(sequence.prompt_token_ids))
        self.live += admitted
        return admitted

    def fills_up(self) -> bool:
        """Whether to leave out the decode of this step, since more can be admitted at once."""
        self.num_filling_steps = self.num_filling_steps + 1 if self.cut_short else 0
        if self.num_filling_steps > MAX_FILLING_STEPS:
            self.num_filling_steps = 0
        return self.num_filling_steps > 0

    def _holds_back(self) -> bool:
        """Whether to leave freed rows empty for this step, until more of them can be filled by one prefill."""
        num_free = max(self.limit - len(self.live), 0)
        wanted = min(len(self.waiting), self.limit // self.pace.refill_share)
        held = bool(self.live) and num_free < wanted and self.num_held_steps < MAX_HELD_STEPS
        self.num_held_steps = self.num_held_steps + 1 if held and num_free else 0
        return held

    def set_apart(self) -> list[tuple[int, int]]:
        """Give the swaps that put the rows that overflow their context behind all others."""
        swaps = []
        last = len(self.live) - 1
        for row, sequence in enumerate(self.live):
            while last > row and self.live[last].overflows:
                last -= 1
            if last > row and sequence.overflows:
                swaps.append((row, last))
                self.live[row], self.live[last] = self.live[last], self.live[row]
        return swaps

    def remove(self, rows: set[int]) -> list[tuple[int, int]]:
        """Take rows out; give the moves (dst, src) that close the holes with the last live rows."""
        self.reserving &= all(self.live[row].cancelled for row in rows)
        keep = len(self.live) - len(rows)
        holes = sorted(row for row in rows if row < keep)
        tail = [row for row in range(keep, len(self.live)) if row not in rows]
        moves = list(zip(holes, tail, strict=True))
        for dst, src in moves:
            self.live[dst] = self.live[src]
        del self.live[keep:]
        return moves


def pace_of(device_type: str) -> Pace:
    """The pace of a kind of device."""
    return GPU_PACE if device_type == "cuda" else CPU_PACE


def _need(sequence: Sequence) -> Need:
    return Need(sequence.length, sequence.max_length)


def _needs(sequence: Sequence, together: int, *, is_shared: bool) -> list[Need]:
    """What the rows of a sequence, or of all its beams, need. Answers that are admitted together share their prompt."""
    whole = _need(sequence)
    shared = replace(whole, shared=whole.length)
    return [shared if is_shared else whole, *[shared] * (together - 1)]
