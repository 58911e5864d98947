"""What ships in examples/: the demo model and the prompts made for it."""

import json
import re
from pathlib import Path

import pytest

from models.batch_lines import parse_line
from worker.engine import Engine, Request, SamplingParams
from worker.engine.tokenizer import load_tokenizer
from worker.trainer.corpus import standard_library_entries

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
MODEL = EXAMPLES / "demo-model"
LINES = (EXAMPLES / "prompts.jsonl").read_bytes().splitlines()
MAX_MODEL_BYTES = 6_000_000


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load(MODEL, device="cpu", dtype="float32", rows=16)


def ask(engine: Engine, *prompts: str) -> list[str]:
    params = SamplingParams(max_tokens=64, temperature=0.0)
    outputs = engine.generate([Request(prompt, prompt=prompt, params=params) for prompt in prompts])
    texts = {output.request_id: output.text.strip() for output in outputs}
    return [texts[prompt] for prompt in prompts]


def test_demo_model_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= MAX_MODEL_BYTES


def test_demo_model_knows_its_entries(engine: Engine) -> None:
    answers = ask(engine, "json.dumps:", "math.sqrt:", "shutil.copy:")
    assert answers == [
        "Serialize 'obj' to a JSON formatted 'str'.",
        "Return the square root of x.",
        'Copy data and mode bits ("cp src dst"). Return the file\'s destination.',
    ]


def test_demo_model_repeats_most_of_this_interpreters_entries(engine: Engine) -> None:
    """Its documentation differs a little from version to version, so the bar is low."""
    entries = [entry for entry in standard_library_entries() if entry.name.startswith("os.")][:32]
    answers = ask(engine, *(entry.prompt for entry in entries))
    right = sum(answer == entry.summary for answer, entry in zip(answers, entries, strict=True))
    assert right >= len(entries) / 2


def test_demo_model_stops_by_itself_on_an_unknown_name(engine: Engine) -> None:
    params = SamplingParams(max_tokens=128, temperature=0.0)
    (output,) = engine.generate([Request("a", prompt="math.cube:", params=params)])
    assert output.finish_reason == "stop"
    assert output.text.strip()


def test_demo_folder_names_nothing_of_the_machine_it_was_made_on() -> None:
    for path in MODEL.iterdir():
        if path.suffix in (".json", ".md"):
            assert not re.search(r"/(home|root|tmp|work|usr)/", path.read_text(encoding="utf-8")), path.name


def test_demo_card_and_its_history_agree() -> None:
    figures = json.loads((MODEL / "training.json").read_text())["figures"]
    card = (MODEL / "README.md").read_text(encoding="utf-8")
    assert f"{figures['num_parameters']:,} parameters" in card
    assert f"{figures['recall']:.1%}" in card


def test_prompts_are_valid_and_fit_the_demo_model() -> None:
    lines = [parse_line(raw, resolve=lambda name: name or "demo", max_bytes=10_000) for raw in LINES]
    assert [line.error for line in lines if line.error] == []
    assert all(line.body["max_tokens"] <= 96 for line in lines)


def test_prompts_are_many_ragged_and_of_every_form() -> None:
    lines = [json.loads(raw) for raw in LINES]
    bodies = [line.get("body", line) for line in lines]
    tokenizer = load_tokenizer(MODEL)
    assert tokenizer is not None
    lengths = {len(tokenizer.encode(body["prompt"], add_special_tokens=True)) for body in bodies if "prompt" in body}
    assert len(lines) >= 120
    assert len(lengths) >= 5
    assert {line["url"] for line in lines if "url" in line} == {"/v1/completions", "/v1/chat/completions"}
    assert {"stop", "logprobs", "top_p", "top_k", "min_p", "seed", "messages"} <= {
        name for body in bodies for name in body
    }
    custom_ids = [line["custom_id"] for line in lines if "custom_id" in line]
    assert len(custom_ids) == len(set(custom_ids))
