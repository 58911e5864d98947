"""The decode engine: sequences join free rows, every step adds a token to each live row, rows leave as they end.

One thread steps it; `prepare` alone may be called from others.
"""

import time
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from worker.engine.attention import attend_each_row, attend_masked_rows, attend_prompts, length_mask
from worker.engine.chat import load_chat_template
from worker.engine.finish import finish
from worker.engine.info import Counters, describe
from worker.engine.kv_cache import WIDTH_MULTIPLE, KVCache, token_bytes
from worker.engine.linear import ROW_MULTIPLE, round_up
from worker.engine.loader import Model, load_model
from worker.engine.memory import CACHE_SHARE, available_bytes
from worker.engine.prepare import MAX_STOP_TOKEN_IDS, Preparer
from worker.engine.rows import Rows, features_of
from worker.engine.sampling import MAX_TOP_LOGPROBS, sample, top_logprobs
from worker.engine.scheduler import Scheduler
from worker.engine.sequence import Sequence
from worker.engine.tokenizer import load_tokenizer
from worker.engine.transformer import forward, logits
from worker.engine.types import EngineError, Output, Request, RowError

_DEFAULT_ROWS = 128  # on a CPU a token cost 0.77 ms at 32 rows, 0.65 at 64, 0.60 at 128


class Engine:
    """Requests in, outputs out. Rows [0, num_live) of every tensor belong to the live sequences, in their order."""

    def __init__(self, model: Model, preparer: Preparer, *, rows: int) -> None:
        self._model, self._preparer = model, preparer
        self.spec, self.weights = model.spec, model.weights
        budget = int(available_bytes(model.device) * CACHE_SHARE) // token_bytes(model.spec, model.dtype)
        self._cache = KVCache(model.spec, max_rows=rows, budget_tokens=budget, dtype=model.dtype, device=model.device)
        self._scheduler = Scheduler(rows, self._cache.fits)
        self._rows = Rows.allocate(
            round_up(rows, ROW_MULTIPLE),
            max_stop_ids=MAX_STOP_TOKEN_IDS + len(preparer.eos_token_ids),
            device=model.device,
        )
        self._masked = model.device.type != "cpu"  # one product over all rows; a CPU takes them one by one
        self._counters = Counters()
        self.info = describe(model, max_model_len=preparer.max_model_len, rows=rows)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        rows: int | None = None,
        max_model_len: int | None = None,
        device: str = "auto",
        dtype: str = "auto",
        num_threads: int | None = None,
    ) -> "Engine":
        """Load a model folder (or a .pt file beside a config.json). Raises EngineError with one clear sentence."""
        if (rows is not None and rows < 1) or (num_threads is not None and num_threads < 1):
            raise EngineError("rows and num_threads must be at least 1")
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        model = load_model(Path(folder), device=device, dtype=dtype)
        tokenizer = load_tokenizer(model.folder)
        preparer = Preparer(
            vocab_size=model.spec.vocab_size,
            max_model_len=_choose_length(max_model_len, model.spec.context_length),
            eos_token_ids=model.spec.eos_token_ids,
            tokenizer=tokenizer,
            chat_template=load_chat_template(model.folder, tokenizer) if tokenizer else None,
        )
        return cls(model, preparer, rows=rows or _DEFAULT_ROWS)

    def prepare(self, request: Request) -> Sequence:
        """Tokenise and check a request; any thread may call it. Raises RowError, and sending it again will not help."""
        return self._preparer.prepare(request)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence for a free row."""
        self._scheduler.add(sequence)

    def cancel(self, request_id: str) -> bool:
        """Drop a sequence, waiting or live; no output is produced for it. False: there is none of this id."""
        return self._scheduler.cancel(request_id)

    @torch.inference_mode()
    def step(self) -> list[Output]:
        """Retire what ended, admit what waits, add a token to every live row. Gives what finished."""
        finished = self._retire()
        if admitted := self._scheduler.admit():
            self._prefill(admitted)
            finished += self._retire()
        if self._scheduler.live:
            self._decode()
        return finished

    @property
    def num_live(self) -> int:
        """Sequences in rows."""
        return len(self._scheduler.live)

    @property
    def num_waiting(self) -> int:
        """Sequences queued for a row."""
        return len(self._scheduler.waiting)

    @property
    def num_free(self) -> int:
        """Rows that no sequence is in or waits for."""
        return max(self.info.rows - self.num_live - self.num_waiting, 0)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._scheduler.live or self._scheduler.waiting)

    def stats(self) -> dict[str, int | float]:
        """Counters since loading, and the state now."""
        return {
            "rows": self.info.rows,
            "live": self.num_live,
            "waiting": self.num_waiting,
            "cache_bytes": self._cache.num_bytes,
            **asdict(self._counters),
        }

    def generate(self, requests: Items[Request], progress: Callable[[int], None] | None = None) -> list[Output]:
        """Decode requests and give their outputs in the same order; a refused one has its `error` set.

        `progress` is called with the number finished so far. For notebooks: nothing else may use the engine meanwhile.
        """
        outputs: dict[str, Output] = {}
        sequences = []
        for index, request in enumerate(requests):
            try:
                sequences.append(self.prepare(replace(request, id=str(index))))
            except RowError as error:
                outputs[str(index)] = Output(str(index), error=error)
        # Longest first: the end of the run then holds many short rows instead of one long one.
        for sequence in sorted(sequences, key=lambda sequence: -sequence.max_new_tokens):
            self.add(sequence)
        while self.has_work:
            outputs |= {output.request_id: output for output in self.step()}
            if progress is not None:
                progress(len(outputs))
        return [replace(outputs[str(index)], request_id=request.id) for index, request in enumerate(requests)]

    def _retire(self) -> list[Output]:
        """Take ended and cancelled sequences out of their rows and close the holes."""
        live = self._scheduler.live
        done = self._rows.done[: len(live)].tolist()
        ended = {row for row, sequence in enumerate(live) if done[row] or sequence.cancelled}
        outputs = [self._finish(row, live[row]) for row in sorted(ended) if not live[row].cancelled]
        for dst, src in self._scheduler.remove(ended):
            self._rows.move(dst, src)
            self._cache.move(dst, src, live[dst].length)
        return outputs

    def _finish(self, row: int, sequence: Sequence) -> Output:
        token_ids, logprobs = self._rows.output(row, sequence.num_generated)
        output = finish(sequence, token_ids, logprobs, tokenizer=self._preparer.tokenizer)
        if output.error is not None:
            self._cache.clear(row)
        self._counters.output_tokens += len(output.token_ids)
        return output

    def _prefill(self, sequences: list[Sequence]) -> None:
        """Run the prompts of rows just admitted, packed end to end, and choose each one's first token."""
        began = time.perf_counter()
        num_live = self.num_live
        first = num_live - len(sequences)
        self._cache.reserve(first, num_live, max(sequence.max_length for sequence in self._scheduler.live))
        self._rows.start(first, sequences)
        lengths = [len(sequence.prompt_token_ids) for sequence in sequences]
        num_tokens = sum(lengths)
        padding = round_up(num_tokens, ROW_MULTIPLE) - num_tokens
        ids = [token_id for sequence in sequences for token_id in sequence.prompt_token_ids]
        tokens = self._integers(ids + [0] * padding)
        positions = self._integers([position for length in lengths for position in range(length)] + [0] * padding)
        slots = self._integers([first + row for row, length in enumerate(lengths) for _ in range(length)])
        addresses = self._cache.addresses(slots, positions[:num_tokens])

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self._cache.write(layer, addresses, k[:num_tokens], v[:num_tokens])
            return attend_prompts(q, k, v, lengths)

        hidden = forward(self.weights, self.spec, tokens, positions, attend)
        ends = self._integers(lengths).cumsum(0) - 1
        self._emit(first, sequences, hidden[_pad_rows(ends)])
        self._counters.prompt_tokens += num_tokens
        self._counters.prefill_seconds += time.perf_counter() - began

    def _decode(self) -> None:
        """Feed every live row its newest token and choose the next."""
        began = time.perf_counter()
        live = self._scheduler.live
        num_live = len(live)
        padded = round_up(num_live, ROW_MULTIPLE)  # rows beyond the live ones compute nothing anyone reads
        positions = self._rows.position[:padded]
        slots = torch.arange(num_live, device=self._model.device)
        addresses = self._cache.addresses(slots, positions[:num_live])
        attend_cache = self._choose_attention(positions[:num_live], [sequence.length + 1 for sequence in live])

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self._cache.write(layer, addresses, k[:num_live], v[:num_live])
            out = attend_cache(q[:num_live], self._cache.k[layer, :num_live], self._cache.v[layer, :num_live])
            return torch.nn.functional.pad(out, (0, 0, 0, padded - num_live))

        hidden = forward(self.weights, self.spec, self._rows.token[:padded], positions, attend)
        self._rows.position[:num_live] += 1
        self._emit(0, live, hidden)
        self._counters.steps += 1
        self._counters.row_steps += num_live
        self._counters.decode_seconds += time.perf_counter() - began

    def _choose_attention(self, positions: Tensor, lengths: list[int]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Bind decode attention (q, k, v of one layer) to the rows' lengths in this step."""
        if not self._masked:
            return lambda q, k, v: attend_each_row(q, k, v, lengths)
        width = round_up(max(lengths), WIDTH_MULTIPLE)
        mask = length_mask(positions, width, self._model.dtype)
        return lambda q, k, v: attend_masked_rows(q, k[:, :, :width], v[:, :, :width], mask)

    def _emit(self, first: int, sequences: list[Sequence], hidden: Tensor) -> None:
        """Choose and record a token for rows [first, first + n) from hidden [N, C], whose first n rows are theirs."""
        count = len(sequences)
        scores = logits(self.weights, self.spec, hidden)
        index = _pad_rows(torch.arange(first, first + count, device=hidden.device))
        tokens, logprobs = sample(scores, self._rows.sampling(index), features_of(sequences))
        rows = slice(first, first + count)
        self._rows.record(rows, tokens[:count], logprobs[:count])
        for sequence in sequences:
            sequence.num_generated += 1
        self._watch(first, sequences, tokens, scores)

    def _watch(self, first: int, sequences: list[Sequence], tokens: Tensor, scores: Tensor) -> None:
        """Let the host see the new tokens of rows that asked for stop strings or alternatives."""
        self._collect_top(sequences, scores)
        for row, sequence in enumerate(sequences):
            if sequence.stop_search is not None and sequence.observe(int(tokens[row])):
                self._rows.done[first + row] = True

    def _collect_top(self, sequences: list[Sequence], scores: Tensor) -> None:
        asking = [row for row, sequence in enumerate(sequences) if sequence.params.top_logprobs]
        if not asking:
            return
        values, ids = top_logprobs(scores, asking, MAX_TOP_LOGPROBS)
        for row, some_ids, some_values in zip(asking, ids.tolist(), values.tolist(), strict=True):
            num = sequences[row].params.top_logprobs
            sequences[row].top.append(tuple(zip(some_ids[:num], some_values[:num], strict=True)))

    def _integers(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64).to(self._model.device)


def _pad_rows(index: Tensor) -> Tensor:
    """Repeat the first of some row numbers [B] until their count is a multiple of 16."""
    return torch.cat([index, index[:1].expand(-len(index) % ROW_MULTIPLE)])


def _choose_length(asked: int | None, context_length: int) -> int:
    if asked is not None and not 1 < asked <= context_length:
        raise EngineError(
            f"max_model_len must be from 2 to the model's context length of {context_length}, not {asked}"
        )
    return asked or context_length
