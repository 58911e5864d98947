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

from worker.engine.beam_rows import beams_of, check_beams, form_beams
from worker.engine.chat import load_chat_template
from worker.engine.checks import MAX_STOP_TOKEN_IDS
from worker.engine.echo import with_prompt
from worker.engine.group import Group, fan_out
from worker.engine.info import Counters, describe
from worker.engine.kv_cache import token_bytes
from worker.engine.linear import ROW_MULTIPLE, round_up
from worker.engine.loader import Model, load_model
from worker.engine.memory import CACHE_SHARE, available_bytes
from worker.engine.prefill import Prefill
from worker.engine.prepare import Preparer, all_eos_token_ids
from worker.engine.rows import Rows, features_of
from worker.engine.runner import Runner, Span, pad_rows
from worker.engine.sampling import MAX_TOP_LOGPROBS, sample, top_logprobs
from worker.engine.scheduler import Scheduler
from worker.engine.sequence import Sequence
from worker.engine.tokenizer import load_tokenizer
from worker.engine.transformer import logits
from worker.engine.types import EngineError, Output, Request, RowError

_DEFAULT_ROWS = 128  # on a CPU a token cost 0.77 ms at 32 rows, 0.65 at 64, 0.60 at 128


class Engine:
    """Requests in, outputs out. Rows [0, num_live) of every tensor belong to the live sequences, in their order."""

    def __init__(self, model: Model, preparer: Preparer, *, rows: int, prefix_sharing: bool = True) -> None:
        self._model, self._preparer = model, preparer
        self.spec, self.weights = model.spec, model.weights
        budget = int(available_bytes(model.device) * CACHE_SHARE) // token_bytes(model.spec, model.dtype)
        self._runner = Runner(model, max_rows=rows, budget_tokens=budget)
        self._prefill = Prefill(self._runner, sharing=prefix_sharing)
        self._scheduler = Scheduler(rows, self._runner.cache.fits, self._prefill.cost)
        self._groups: dict[str, Group] = {}
        self._rows = Rows.allocate(
            round_up(rows, ROW_MULTIPLE),
            max_stop_ids=MAX_STOP_TOKEN_IDS + len(preparer.eos_token_ids),
            device=model.device,
        )
        self._counters = Counters()
        self.info = describe(model, max_model_len=preparer.max_model_len, rows=rows, fast_paths=self._runner.fast_paths)

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
        prefix_sharing: bool = True,
    ) -> "Engine":
        """Load a model folder (or a .pt file beside a config.json). Raises EngineError with one clear sentence.

        `prefix_sharing` computes the common beginning of prompts of one owner once; it changes no answer.
        """
        if (rows is not None and rows < 1) or (num_threads is not None and num_threads < 1):
            raise EngineError("rows and num_threads must be at least 1")
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        model = load_model(Path(folder), device=device, dtype=dtype)
        tokenizer = load_tokenizer(model.folder)
        preparer = Preparer(
            vocab_size=model.spec.vocab_size,
            max_model_len=_choose_length(max_model_len, model.spec.context_length),
            eos_token_ids=all_eos_token_ids(model.spec.eos_token_ids, tokenizer),
            tokenizer=tokenizer,
            chat_template=load_chat_template(model.folder, tokenizer) if tokenizer else None,
        )
        return cls(model, preparer, rows=rows or _DEFAULT_ROWS, prefix_sharing=prefix_sharing)

    def prepare(self, request: Request) -> Group:
        """Tokenise and check a request; any thread may call it. Raises RowError, and sending it again will not help."""
        sequence = self._preparer.prepare(request)
        if not sequence.params.use_beam_search:
            return fan_out(sequence, self._preparer.tokenizer)
        check_beams(sequence, max_rows=self.info.rows, fits=self._runner.cache.fits)
        return form_beams(sequence)

    def add(self, group: Group) -> None:
        """Queue a prepared request for free rows."""
        self._groups[group.request_id] = group
        self._prefill.note(group.sequences)
        self._scheduler.add(group.sequences)

    def cancel(self, request_id: str) -> bool:
        """Drop a request, waiting or live; no output is produced for it. False: there is none of this id."""
        if self._groups.pop(request_id, None) is None:
            return False
        self._scheduler.cancel(request_id)
        return True

    @torch.inference_mode()
    def step(self) -> list[Output]:
        """Retire what ended, admit what waits, add a token to every live row. Gives what finished."""
        finished = self._retire()
        if admitted := self._scheduler.admit():
            self._begin(admitted)
            finished += self._retire()
        if self._scheduler.live and not self._scheduler.cut_short:  # first fill the rows, then let them all decode
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
            "cache_bytes": self._runner.cache.num_bytes,
            **asdict(self._counters),
        }

    def generate(self, requests: Items[Request], progress: Callable[[int], None] | None = None) -> list[Output]:
        """Decode requests and give their outputs in the same order; a refused one has its `error` set.

        `progress` is called with the number finished so far. For notebooks: nothing else may use the engine meanwhile.
        """
        outputs: dict[str, Output] = {}
        groups = []
        for index, request in enumerate(requests):
            try:
                groups.append(self.prepare(replace(request, id=str(index))))
            except RowError as error:
                outputs[str(index)] = Output(str(index), error=error)
        # Longest first: the end of the run then holds many short rows instead of one long one.
        for group in sorted(groups, key=lambda group: -group.sequences[0].max_new_tokens):
            self.add(group)
        while self.has_work:
            outputs |= {output.request_id: output for output in self.step()}
            if progress is not None:
                progress(len(outputs))
        return [replace(outputs[str(index)], request_id=request.id) for index, request in enumerate(requests)]

    def _retire(self) -> list[Output]:
        """Take ended and cancelled sequences out of their rows and close the holes."""
        live = self._scheduler.live
        done = self._rows.done[: len(live)].tolist()
        ended = [row for row, sequence in enumerate(live) if done[row] and not sequence.cancelled]
        outputs = [output for row in ended if (output := self._finish(row, live[row]))]
        gone = {row for row, sequence in enumerate(live) if done[row] or sequence.cancelled}
        for dst, src in self._scheduler.remove(gone):
            self._rows.move(dst, src)
            self._runner.cache.copy(dst, src, live[dst].length)
        return outputs

    def _finish(self, row: int, sequence: Sequence) -> Output | None:
        """Give the output of a request whose last sequence this was; a failed sequence fails its request at once."""
        group = self._groups.get(sequence.request_id)
        if group is None:  # another sequence of the request failed in this same step
            return None
        token_ids, logprobs = self._rows.output(row, sequence.num_generated)
        try:
            output = group.end(sequence, token_ids, logprobs, tokenizer=self._preparer.tokenizer)
            if output is not None:
                output = with_prompt(output, group.params, group.sequences[0], tokenizer=self._preparer.tokenizer)
        except RowError as error:
            for other, one in enumerate(self._scheduler.live):
                if one.request_id == sequence.request_id:
                    self._runner.cache.clear(other)
            self.cancel(sequence.request_id)
            return Output(sequence.request_id, error=error)
        if output is not None:
            del self._groups[sequence.request_id]
            self._counters.output_tokens += sum(len(completion.token_ids) for completion in output.completions)
        return output

    def _begin(self, sequences: list[Sequence]) -> None:
        """Run the prompts of rows just admitted and choose each one's first token."""
        began = time.perf_counter()
        first = self.num_live - len(sequences)
        longest = max(sequence.max_length for sequence in self._scheduler.live)
        self._runner.cache.reserve(first, self.num_live, longest)
        self._rows.start(first, sequences)
        hidden = self._prefill.run(first, sequences)
        self._emit(first, sequences, hidden[pad_rows(torch.arange(len(sequences), device=hidden.device))])
        self._counters.prompt_tokens += sum(len(sequence.prompt_token_ids) for sequence in sequences)
        self._counters.shared_tokens, self._counters.prefix_hits = self._prefill.shared_tokens, self._prefill.num_hits
        self._counters.prefill_seconds += time.perf_counter() - began

    def _decode(self) -> None:
        """Feed every live row its newest token and choose the next."""
        began = time.perf_counter()
        for a, b in self._scheduler.set_apart():
            self._rows.swap(a, b)
            self._runner.cache.copy(a, b, self._scheduler.live[a].length)
        live = self._scheduler.live
        plain = [sequence for sequence in live if not sequence.overflows]
        if plain:
            self._extend(plain)
        if len(plain) < len(live):
            self._recompute(len(plain), live[len(plain) :])
        self._counters.steps += 1
        self._counters.row_steps += len(live)
        self._counters.decode_seconds += time.perf_counter() - began

    def _extend(self, sequences: list[Sequence]) -> None:
        """Decode rows [0, n) over the cache."""
        num_rows = len(sequences)
        padded = round_up(num_rows, ROW_MULTIPLE)  # rows beyond the live ones compute nothing anyone reads
        ends = [sequence.length + 1 for sequence in sequences]
        positions = self._rows.position[:padded].clamp(max=self.info.max_model_len - 1)  # a row cropped is past its end
        hidden = self._runner.decode(self._rows.token[:padded], positions, ends)
        self._rows.position[:num_rows] += 1
        self._emit(0, sequences, hidden)

    def _recompute(self, first: int, sequences: list[Sequence]) -> None:
        """Decode rows [first, first + n), each over the newest tokens of its context alone, at positions from 0."""
        spans = []
        for row, sequence in enumerate(sequences, first):
            generated, _ = self._rows.output(row, sequence.num_generated)
            newest = [*sequence.prompt_token_ids, *generated][-(sequence.context_length or 0) :]
            spans.append(Span(row, 0, newest))
        hidden = self._runner.prefill(spans)
        self._emit(first, sequences, hidden[pad_rows(torch.arange(len(sequences), device=hidden.device))])

    def _emit(self, first: int, sequences: list[Sequence], hidden: Tensor) -> None:
        """Choose and record a token for rows [first, first + n) from hidden [N, C], whose first n rows are theirs."""
        count = len(sequences)
        scores = logits(self.weights, self.spec, hidden, self._runner.ops)
        began = time.perf_counter()
        index = pad_rows(torch.arange(first, first + count, device=hidden.device))
        tokens, logprobs = sample(scores, self._rows.sampling(index), features_of(sequences), self._runner.ops)
        rows = slice(first, first + count)
        self._rows.record(rows, tokens[:count], logprobs[:count])
        for sequence in sequences:
            sequence.num_generated += 1
        self._watch(first, sequences, tokens, scores)
        for group, row_of in beams_of(sequences, self._groups):
            group.advance(row_of, first, scores, self._rows, self._runner.cache)
        self._counters.sampling_seconds += time.perf_counter() - began

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
        values, ids = top_logprobs(scores, asking, MAX_TOP_LOGPROBS, self._runner.ops)
        for row, some_ids, some_values in zip(asking, ids.tolist(), values.tolist(), strict=True):
            num = sequences[row].params.top_logprobs
            sequences[row].top.append(tuple(zip(some_ids[:num], some_values[:num], strict=True)))


def _choose_length(asked: int | None, context_length: int) -> int:
    if asked is not None and not 1 < asked <= context_length:
        raise EngineError(
            f"max_model_len must be from 2 to the model's context length of {context_length}, not {asked}"
        )
    return asked or context_length
