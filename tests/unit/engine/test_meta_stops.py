"""A Meta folder as it is shipped, weights and rank file: an answer ends where the vocabulary says it does."""

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from transformers import LlamaConfig

from tests.unit.engine.parity import TINY, save_tiny
from tests.unit.engine.test_meta import PARAMS, write_meta
from worker.engine import Engine, Request, SamplingParams
from worker.engine.checkpoint import find_weight_files, load_state_dict

NUM_RANKS = 256
END_OF_TEXT, EOM, EOT = NUM_RANKS + 1, NUM_RANKS + 8, NUM_RANKS + 9  # as the 256 special tokens are ordered
VOCAB = NUM_RANKS + 256


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    source, folder = tmp_path_factory.mktemp("hugging_face"), tmp_path_factory.mktemp("meta")
    changes = {"intermediate_size": 176, "num_hidden_layers": 2, "vocab_size": VOCAB, "rms_norm_eps": 1e-5}
    save_tiny(source, LlamaConfig(**(TINY | changes)))
    write_meta(folder, load_state_dict(find_weight_files(source)))
    (folder / "params.json").write_text(json.dumps(PARAMS | {"vocab_size": VOCAB}))
    ranks = [f"{base64.b64encode(bytes([byte])).decode()} {byte}\n" for byte in range(NUM_RANKS)]
    (folder / "tokenizer.model").write_text("".join(ranks))
    return Engine.load(folder, rows=4, num_threads=1)


def wants(token_id: int, **params: Any) -> SamplingParams:  # noqa: ANN401 (any field of it)
    """A greedy request that takes this token as soon as it may."""
    return SamplingParams(temperature=0, max_tokens=9, logit_bias=((token_id, 100.0),), **params)


@pytest.mark.parametrize("stop", [END_OF_TEXT, EOM, EOT])
def test_answer_stops_at_the_vocabularys_ends(engine: Engine, stop: int) -> None:
    params = wants(stop, min_tokens=2)
    (output,) = engine.generate([Request("r", "ab", params=params)])
    (answer,) = output.completions
    assert (len(answer.token_ids), answer.finish_reason) == (2, "stop")
    assert stop not in answer.token_ids


def test_ends_can_be_ignored(engine: Engine) -> None:
    (output,) = engine.generate([Request("r", "ab", params=wants(EOT, ignore_eos=True))])
    (answer,) = output.completions
    assert (answer.token_ids, answer.finish_reason) == ([EOT] * 9, "length")


def test_row_holds_the_vocabularys_ends_and_all_that_a_request_may_add(engine: Engine) -> None:
    more = tuple(range(90, 98))
    for stop in (EOT, more[-1]):
        (output,) = engine.generate([Request("r", "ab", params=wants(stop, min_tokens=2, stop_token_ids=more))])
        assert (len(output.completions[0].token_ids), output.completions[0].finish_reason) == (2, "stop")


@pytest.mark.parametrize(
    ("stop", "expected"), [("zz", ("\N{REPLACEMENT CHARACTER}", "length")), ("\N{REPLACEMENT CHARACTER}", ("", "stop"))]
)
def test_stop_strings_see_the_half_character_that_ends_an_answer(
    engine: Engine, stop: str, expected: tuple[str, str]
) -> None:
    params = wants(0xE2)
    (output,) = engine.generate([Request("r", "ab", params=replace(params, max_tokens=1, stop=(stop,)))])
    (answer,) = output.completions
    assert (answer.text, answer.finish_reason) == expected
