"""The decode engine: sequences join free rows, every step adds a token to each live row, rows leave as they end.

One thread steps it; `prepare` alone may be called from others.
"""

import time
from collections.abc import Callable
from collections.abc import Sequence as Items
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from worker.engine.beam_rows import check_beams, form_beams
from worker.engine.chat import load_chat_template
from worker.engine.checks import MAX_STOP_TOKEN_IDS
from worker.engine.echo import with_prompt
from worker.engine.faults import RowsIntact, blaming_the_row, is_allocation_failure, out_of_memory
from worker.engine.finish import nonfinite_logits
from worker.engine.float32_retry import Float32Retry
from worker.engine.group import Group, fan_out, follow_all
from worker.engine.info import Counters, describe
from worker.engine.kv_cache import token_bytes
from worker.engine.kv_dtype import choose_kv_dtype
from worker.engine.linear import ROW_MULTIPLE, round_up
from worker.engine.loader import Model
from worker.engine.memory import GPU_MEMORY_FRACTION, cache_bytes, choose_rows
from worker.engine.parallel.launch import MakeRunner, load_split
from worker.engine.prefill import Prefill
from worker.engine.prepare import Preparer, all_eos_token_ids
from worker.engine.recovery import Recovery, rewound
from worker.engine.rows import Rows
from worker.engine.runner import Runner
from worker.engine.scheduler import Scheduler, pace_of
from worker.engine.sequence import Sequence
from worker.engine.stepper import DeviceStep, Stepper, choose_lag
from worker.engine.tokenizer import load_tokenizer
from worker.engine.types import Delta, EngineError, Output, Request, RowError


class Engine:
    """Requests in, outputs out. Rows [0, num_live) of every tensor belong to the live sequences, in their order."""

    def __init__(
        self,
        model: Model,
        preparer: Preparer,
        *,
        rows: int | None = None,
        prefix_sharing: bool = True,
        gpu_memory_fraction: float | None = None,
        kv_dtype: str = "auto",
        load_float32: Callable[[], "Engine"] | None = None,
        make_runner: MakeRunner = Runner,
    ) -> None:
        self._preparer, self._device = preparer, model.device
        self.spec, self.weights = model.spec, model.weights
        num_bytes = cache_bytes(model.device, gpu_memory_fraction=gpu_memory_fraction)
        budget = num_bytes // token_bytes(model.spec, choose_kv_dtype(kv_dtype, model.dtype))
        rows = rows or choose_rows(budget, max_model_len=preparer.max_model_len, device=model.device)
        self._runner = make_runner(
            model, max_rows=rows, budget_tokens=budget, max_tokens=preparer.max_model_len, kv_dtype=kv_dtype
        )
        self._prefill = Prefill(self._runner, sharing=prefix_sharing)
        self._scheduler = Scheduler(rows, self._runner.cache.room, self._prefill.cost, pace=pace_of(model.device.type))
        self._groups: dict[str, Group] = {}  # waiting and live
        self._finished: list[Output] = []  # not given out yet
        self._retry = Float32Retry(load_float32)
        self._recovery = Recovery(self._scheduler, self._runner, self._prefill, self._groups, preparer.tokenizer)
        self._rows = Rows.allocate(
            round_up(rows, ROW_MULTIPLE),
            max_stop_ids=MAX_STOP_TOKEN_IDS + len(preparer.eos_token_ids),
            device=model.device,
        )
        self._counters = Counters()
        self._stepper = Stepper(
            model,
            self._runner,
            self._prefill,
            self._rows,
            self._groups,
            self._counters,
            max_model_len=preparer.max_model_len,
            fail=self._fail,
            lag=choose_lag(model.device),
            device_step=self._device_step(model, preparer.max_model_len),
        )
        self.info = describe(model, max_model_len=preparer.max_model_len, rows=rows, fast_paths=self._runner.fast_paths)

    def _device_step(self, model: Model, max_model_len: int) -> DeviceStep | None:
        if not self._runner.has_device_step:
            return None
        from worker.engine.cuda.device_step import GraphedStep  # Triton is not everywhere

        return GraphedStep(model, self._runner, self._rows, max_model_len=max_model_len)

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
        gpu_memory_fraction: float = GPU_MEMORY_FRACTION,
        tensor_parallel: int = 1,
        reproducible: bool = False,
        kv_dtype: str = "auto",
    ) -> "Engine":
        """Load a model folder (or a .pt file beside a config.json). Raises EngineError with one clear sentence.

        `prefix_sharing` computes the common beginning of prompts of one owner once; it changes no answer.
        `gpu_memory_fraction` of a GPU's memory may be in use once the cache is full; on a CPU it says nothing.
        `tensor_parallel` > 1 splits the model among as many processes, each on a GPU of its own from `device` on; they
        are started here, end with the engine, and change no answer.
        `reproducible` makes a GPU give the same bits whatever shares the batch, as a CPU always does, at some speed.
        `kv_dtype` "fp8" lets a GPU keep keys and values in 8 bits, twice as many in the same memory, a little less
        exactly; "auto" keeps them in the dtype of the model.
        """
        if (rows is not None and rows < 1) or (num_threads is not None and num_threads < 1):
            raise EngineError("rows and num_threads must be at least 1")
        if not 0 < gpu_memory_fraction <= 1:
            raise EngineError("gpu_memory_fraction must be above 0 and at most 1")
        choose_kv_dtype(kv_dtype, torch.float32)  # a name that is not known is told before anything is read
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        load = partial(load_split, Path(folder), num_ranks=tensor_parallel)
        model, make_runner = load(device=device, dtype=dtype)
        make_runner = partial(make_runner, reproducible=reproducible)
        tokenizer = load_tokenizer(model.folder)
        preparer = Preparer(
            vocab_size=model.spec.vocab_size,
            max_model_len=_choose_length(max_model_len, model.spec.context_length),
            eos_token_ids=all_eos_token_ids(model.spec.eos_token_ids, tokenizer),
            tokenizer=tokenizer,
            chat_template=load_chat_template(model.folder, tokenizer) if tokenizer else None,
        )

        def load_float32() -> Engine:
            other, make_other = load(device=str(model.device), dtype="float32")
            make_other = partial(make_other, reproducible=reproducible)
            return cls(other, preparer, rows=engine.info.rows, prefix_sharing=False, make_runner=make_other)

        is_float32 = model.dtype == torch.float32
        engine = cls(
            model,
            preparer,
            rows=rows,
            prefix_sharing=prefix_sharing,
            gpu_memory_fraction=gpu_memory_fraction,
            kv_dtype=kv_dtype,
            load_float32=None if is_float32 else load_float32,
            make_runner=make_runner,
        )
        return engine

    def prepare(self, request: Request) -> Group:
        """Tokenise and check a request; any thread may call it. Raises RowError, and sending it again will not help."""
        sequence = self._preparer.prepare(request)
        if sequence.params.use_beam_search:
            check_beams(sequence, max_rows=self.info.rows, fits=self._runner.cache.may_fit)
            group: Group = form_beams(sequence)
        else:
            group = fan_out(sequence, self._preparer.tokenizer)
        if request.stream:
            follow_all(group, self._preparer.tokenizer)
        return group

    def add(self, group: Group) -> None:
        """Queue a prepared request for free rows."""
        self._groups[group.request_id] = group
        group.added_at = time.perf_counter()
        self._prefill.note(group.sequences)
        self._scheduler.add(group.sequences)

    def cancel(self, request_id: str) -> bool:
        """Drop a request, waiting or live; no output is produced for it. False: there is none of this id."""
        if request_id not in self.request_ids():
            return False
        if self._groups.pop(request_id, None) is not None:
            self._scheduler.cancel(request_id)
        self._retry.cancel(request_id)
        self._finished = [output for output in self._finished if output.request_id != request_id]
        return True

    @torch.inference_mode()
    def step(self) -> list[Output]:
        """Retire what ended, admit what waits, add a token to every live row. Gives what finished.

        Where memory runs out, rows go back to the queue and fewer are admitted from then on. Any other error, of the
        device or a bug, is raised once all live rows are back in the queue: the engine still says what it holds, and
        what had finished is given by the next step.
        """
        with on_device(self._device):  # kernels run on the thread's current one, wherever their tensors lie
            return self._step()

    def _step(self) -> list[Output]:
        intact = None
        try:
            self._advance()
            self._finished += self._retry.step()
        except RowsIntact:
            intact = True
        except BaseException as error:
            if not is_allocation_failure(error):
                self._stepper.discard()
                self._recovery.begin_anew()
                raise
            intact = False
        # Only here are the failed step's tensors let go, which its exception held.
        if intact is None:
            self._recovery.note_clean_step()
        else:
            self._make_room(intact=intact)
        finished, self._finished = self._finished, []
        return finished

    def take_deltas(self) -> list[Delta]:
        """Take what the last steps made certain of requests that stream, in order.

        A row that begins anew after memory ran out repeats nothing. One that begins anew in float32 gives out no more:
        its output may differ from what was given out, as it may where the request failed.
        """
        return self._stepper.take_deltas()

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
        return max(self._scheduler.limit - self.num_live - self.num_waiting, 0)

    @property
    def num_wanted(self) -> int:
        """How many requests to add now, or none where the next step can begin no more; ask again after adding them.
        What is added only when wanted is begun at once, and its order is chosen as late as can be."""
        return min(self._scheduler.num_wanted, self.num_free)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._scheduler.live or self._scheduler.waiting or self._finished or self._retry.request_ids)

    def request_ids(self) -> list[str]:
        """Requests added whose output no step has given yet, waiting or live. Right after an error, too."""
        return [*self._groups, *self._retry.request_ids, *(output.request_id for output in self._finished)]

    def stats(self) -> dict[str, int | float]:
        """Counters since loading, and the state now."""
        return {
            "rows": self.info.rows,
            "live": self.num_live,
            "waiting": self.num_waiting,
            "row_limit": self._scheduler.limit,
            "cache_bytes": self._runner.cache.num_bytes,
            "oom_splits": self._recovery.num_splits,
            "preemptions": self._recovery.num_preemptions,
            "float32_retries": self._retry.num_retries,
            "float32_helped": self._retry.num_helped,
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
                groups.append(self.prepare(replace(request, id=str(index), stream=False)))
            except RowError as error:
                outputs[str(index)] = Output(str(index), error=error)
        # Longest first: the end of the run then holds many short rows instead of one long one.
        for group in sorted(groups, key=lambda group: -group.sequences[0].max_new_tokens):
            self.add(group)
        try:
            while self.has_work:
                outputs |= {output.request_id: output for output in self.step()}
                if progress is not None:
                    progress(len(outputs))
        except BaseException:  # an interrupted notebook, too, does not want these any more
            for group in groups:
                self.cancel(group.request_id)
            raise
        return [replace(outputs[str(index)], request_id=request.id) for index, request in enumerate(requests)]

    def _advance(self) -> None:
        """Retire what ended, admit what waits, add a token to every live row."""
        self._retire()
        if admitted := self._scheduler.admit():
            self._stepper.begin(self._scheduler.live, len(admitted))
            self._retire()
        if not self._scheduler.live:
            self._stepper.settle()
        elif not self._scheduler.fills_up():
            self._stepper.decode(self._scheduler)

    def _make_room(self, *, intact: bool) -> None:
        """Go on with fewer rows, once the host has seen what the rows hold, where they hold anything."""
        if intact:
            self._stepper.settle()
        else:
            self._stepper.discard()
        if hopeless := self._recovery.split(intact=intact):
            self._fail(hopeless.request_id, out_of_memory(hopeless.max_length))

    def _retire(self) -> None:
        """Take ended and cancelled sequences out of their rows and close the holes."""
        live = self._scheduler.live
        for row, sequence in enumerate(live):
            if sequence.ended and not sequence.cancelled:
                self._finish(sequence)
            elif sequence.ended or (sequence.cancelled and self._stepper.has_in_flight):
                # Perhaps its scores were no numbers: nobody else looks at a cancelled row.
                self._runner.cache.clear(row)
        gone = {row for row, sequence in enumerate(live) if sequence.ended or sequence.cancelled}
        for dst, src in self._scheduler.remove(gone):
            self._rows.move(dst, src)
            self._runner.cache.move(dst, src, live[dst].length)
        self._runner.cache.keep_first(len(live))

    def _finish(self, sequence: Sequence) -> None:
        """Put out the request whose last sequence this was; a failed sequence fails its request at once."""
        group = self._groups.get(sequence.request_id)
        if group is None:  # another sequence of the request failed in this same step
            return
        tokenizer = self._preparer.tokenizer
        try:
            with blaming_the_row():
                output = group.end(sequence, sequence.token_ids, sequence.logprobs, tokenizer=tokenizer)
                if output is not None:
                    output = with_prompt(output, group.params, group.sequences[0], tokenizer=tokenizer)
        except RowError as error:
            self._fail(sequence.request_id, error)
            return
        if output is not None:
            del self._groups[sequence.request_id]
            self._finished.append(replace(output, timings=group.timings()))
            self._counters.output_tokens += sum(len(completion.token_ids) for completion in output.completions)

    def _fail(self, request_id: str, error: RowError) -> None:
        """End a request, all its sequences; scores that are no numbers may have another try."""
        for row, sequence in enumerate(self._scheduler.live):
            if sequence.request_id == request_id and not sequence.cancelled:
                self._runner.cache.clear(row)
        group = self._groups.pop(request_id)
        self._scheduler.cancel(request_id)
        again = rewound(group, self._preparer.tokenizer) if error.code == nonfinite_logits().code else None
        if again is None or not self._retry.take(again):
            self._finished.append(Output(request_id, error=error))


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU the current one for a while; for a CPU nothing is to be done."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _choose_length(asked: int | None, context_length: int) -> int:
    if asked is not None and not 1 < asked <= context_length:
        raise EngineError(
            f"max_model_len must be from 2 to the model's context length of {context_length}, not {asked}"
        )
    return asked or context_length
