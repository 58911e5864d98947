"""From prompts to the hidden states that their first tokens are chosen from, by way of beginnings computed before."""

from collections.abc import Sequence as Items

import torch
from torch import Tensor

from worker.engine.prefix import PrefixStore
from worker.engine.runner import Runner, Span
from worker.engine.sequence import PromptScores, Sequence

Rows = list[tuple[int, Sequence]]  # by slot


class Prefill:
    """Runs the prompts of admitted rows. Shares beginnings only where attention is exact wherever a prompt is cut."""

    def __init__(self, runner: Runner, *, sharing: bool) -> None:
        self._runner = runner
        self._sharing = sharing and runner.attention.exact_anywhere
        self._prefixes = PrefixStore(runner.cache)
        runner.cache.reclaim = self._prefixes.evict
        self.num_hits = self.shared_tokens = 0

    def note(self, sequences: Items[Sequence]) -> None:
        """Look at the prompts of sequences that begin to wait: what two of them share is worth keeping."""
        for sequence in sequences:
            if self._sharing and self._is_sharable(sequence):
                sequence.prefix_hashes = self._prefixes.note(sequence.owner, sequence.prompt_token_ids)

    def _is_sharable(self, sequence: Sequence) -> bool:
        """Whether a prompt lies in the cache from its first token on, and is long enough to be worth a look."""
        num_tokens = len(sequence.prompt_token_ids)
        if sequence.num_prompt_top is not None and sequence.answer == 0:
            return False
        return num_tokens > self._prefixes.block_tokens and num_tokens <= (sequence.context_length or num_tokens)

    def forget(self) -> None:
        """Give back the memory of stored beginnings."""
        self._prefixes.clear()

    def cost(self, sequence: Sequence) -> int:
        """Prompt tokens that are still to be computed."""
        found = self._prefixes.find(sequence.owner, sequence.prompt_token_ids, sequence.prefix_hashes)
        return len(sequence.prompt_token_ids) - (found[1] if found else 0)

    def run(self, first: int, sequences: Items[Sequence]) -> Tensor:
        """Run the prompts of rows [first, first + n) into their slots -> hidden [n, C] of each one's last token."""
        rows = list(enumerate(sequences, first))
        leaders = {sequence.request_id: row for row, sequence in reversed(rows)}
        hidden = self._compute([(row, sequence) for row, sequence in rows if row == leaders[sequence.request_id]])
        for row, sequence in rows:
            leader = leaders[sequence.request_id]
            if row != leader:  # answers of one request share its prompt
                self._runner.cache.share(row, leader, sequence.length)
                hidden[row] = hidden[leader]
                self.shared_tokens += sequence.length
        return torch.stack([hidden[row] for row, _ in rows])

    def _compute(self, pending: Rows) -> dict[int, Tensor]:
        """Run the prompts of some rows -> hidden [C] of each one's last token."""
        scored = [(row, sequence) for row, sequence in pending if self._is_scored(sequence)]
        hidden = {row: self._score(row, sequence) for row, sequence in scored}
        pending = [item for item in pending if item not in scored]
        while pending:
            wave, pending = self._split(pending)
            spans = [self._span(row, sequence) for row, sequence in wave]
            last = self._runner.prefill(spans)
            hidden |= {row: last[index] for index, (row, _) in enumerate(wave)}
            for row, sequence in wave:
                self._keep(row, sequence)
        return hidden

    def _is_scored(self, sequence: Sequence) -> bool:
        """Whether to run a prompt in the way that scores it: for the first answer of a request, and for the others
        where another way would have other bits."""
        needed = sequence.answer == 0 or not self._runner.attention.exact_anywhere
        return sequence.num_prompt_top is not None and needed

    def _score(self, row: int, sequence: Sequence) -> Tensor:
        """Run a whole prompt, which shares no beginning, and score its tokens -> hidden [C] of its last one."""
        prompt = sequence.prompt_token_ids
        sequence.prompt_scores = scores = PromptScores()
        num_done = 0
        for hidden in self._runner.scan(Span(row, 0, prompt)):
            following = prompt[num_done + 1 : num_done + 1 + len(hidden)]
            self._runner.score(hidden, following, num_top=sequence.num_prompt_top or 0, into=scores)
            num_done += len(hidden)
        return hidden[-1]

    def _split(self, rows: Rows) -> tuple[Rows, Rows]:
        """Set aside the rows whose beginning another of these rows is about to compute."""
        wave: Rows = []
        later: Rows = []
        coming: set[int] = set()
        for row, sequence in rows:
            depth = self._prefixes.wanted(sequence.prefix_hashes)
            ends = {sequence.prefix_hashes[depth - 1]} if depth else set()
            (later if ends & coming else wave).append((row, sequence))
            coming |= ends
        return wave, later

    def _span(self, row: int, sequence: Sequence) -> Span:
        """Fill a row's slot with what is known of its prompt; gives the rest."""
        prompt = sequence.prompt_token_ids[-(sequence.context_length or 0) :]
        found = self._prefixes.find(sequence.owner, prompt, sequence.prefix_hashes)
        if found is None:
            return Span(row, 0, prompt)
        prefix, num_tokens = found
        prefix.beginning.fill(row, num_tokens)
        self.num_hits += 1
        self.shared_tokens += num_tokens
        return Span(row, num_tokens, prompt[num_tokens:])

    def _keep(self, row: int, sequence: Sequence) -> None:
        depth = self._prefixes.wanted(sequence.prefix_hashes)
        if depth:
            hashes = sequence.prefix_hashes[:depth]
            self._prefixes.put(sequence.owner, sequence.prompt_token_ids, hashes, row)
