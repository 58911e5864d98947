"""Requests of all kinds, to be answered alike by any engine of one model."""

import random

from tests.unit.engine.models import VOCAB_SIZE, ragged_requests
from worker.engine import Engine, Output, Request, SamplingParams


def mixed_requests() -> list[Request]:
    """Ragged and sampled ones, several answers, beams, scored prompts, rows that outgrow a context of 256."""
    rng = random.Random(1)
    instruction = [rng.randrange(3, VOCAB_SIZE) for _ in range(70)]

    def prompt(length: int) -> list[int]:
        return [rng.randrange(3, VOCAB_SIZE) for _ in range(length)]

    def request(name: str, ids: list[int], **values: object) -> Request:
        return Request(name, ids, params=SamplingParams(**{"max_tokens": 12, "seed": 5, **values}))  # type: ignore[arg-type]

    return [
        *ragged_requests(12, sampled=True),
        *(request(f"shared{index}", instruction + prompt(3 + index), temperature=0.8) for index in range(5)),
        request("answers", prompt(40), n=3, temperature=1.1, top_logprobs=2),
        request("beams", prompt(30), use_beam_search=True, best_of=3, n=2, temperature=0.0),
        request("scored", prompt(25), prompt_logprobs=2, temperature=0.0),
        request("cropped", prompt(240), context_overflow="crop", max_tokens=30, ignore_eos=True),
    ]


def run_with_cancels(engine: Engine) -> list[Output]:
    """Decode while requests join and go: two are cancelled as they run, and one as it waits."""
    groups = [engine.prepare(request) for request in ragged_requests(9, sampled=True, max_tokens=20)]
    outputs: list[Output] = []
    for group in groups[:6]:
        engine.add(group)
    for step in range(200):
        if step == 2:
            assert engine.cancel(groups[0].request_id)
            assert engine.cancel(groups[5].request_id)
            for group in groups[6:]:
                engine.add(group)
        if step == 4:
            engine.cancel(groups[1].request_id)
        outputs += engine.step()
        if not engine.has_work:
            break
    return sorted(outputs, key=lambda output: output.request_id)
