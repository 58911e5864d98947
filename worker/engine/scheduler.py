"""Who runs: the queue, admission to free rows, compaction. Host only: holds no tensors and imports no torch."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from worker.engine.sequence import Sequence

# Prompt tokens computed before the next decode step, or the next look at who was cancelled.
ADMIT_TOKENS = 2048
# While more prompts wait, freed rows are filled a sixteenth of all rows at a time: one prompt alone does not fill a
# matrix product. They never stand empty for more than this many steps.
REFILL_SHARE = 16
MAX_HELD_STEPS = 16
# First the rows are filled, then they all decode; but rows wait no longer than this for others to be admitted.
MAX_FILLING_STEPS = 8


@dataclass(slots=True)
class Scheduler:
    """Waiting sequences in order of arrival, live ones by row. Invariant: rows [0, num_live) are live, no holes."""

    max_rows: int
    fits: Callable[[int, int], bool]  # (rows, longest of them in tokens) -> whether the cache may hold them
    cost: Callable[[Sequence], int]  # prompt tokens that must be computed
    waiting: deque[Sequence] = field(default_factory=deque)
    live: list[Sequence] = field(default_factory=list)
    num_held_steps: int = 0  # steps since which freed rows stand empty
    limit: int = 0  # rows that memory is known to hold, max_rows unless that was too many
    cut_short: bool = False  # whether the last admission stopped at its token limit: there is more to admit
    num_filling_steps: int = 0  # steps since which no row was decoded

    def __post_init__(self) -> None:
        self.limit = self.limit or self.max_rows

    def add(self, sequences: list[Sequence]) -> None:
        """Queue the sequences of a request behind those that wait."""
        self.waiting.extend(sequences)

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
        num_tokens, longest = 0, max((sequence.max_length for sequence in self.live), default=0)
        while self.waiting:
            sequence = self.waiting[0]
            together = max(sequence.num_beams, 1)
            num_rows = len(self.live) + len(admitted) + together
            alone = num_rows == together
            if num_rows > (self.max_rows if alone else self.limit):
                break
            num_tokens += self.cost(sequence)
            longest = max(longest, sequence.max_length)
            self.cut_short = bool(admitted) and num_tokens > ADMIT_TOKENS
            if self.cut_short or not (alone or self.fits(num_rows, longest)):
                break
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
        wanted = min(len(self.waiting), self.limit // REFILL_SHARE)
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
        keep = len(self.live) - len(rows)
        holes = sorted(row for row in rows if row < keep)
        tail = [row for row in range(keep, len(self.live)) if row not in rows]
        moves = list(zip(holes, tail, strict=True))
        for dst, src in moves:
            self.live[dst] = self.live[src]
        del self.live[keep:]
        return moves
