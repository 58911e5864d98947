"""What keys and values of 8 bits cost in accuracy: the same text scored over an exact cache and over a rounded one.

python -m benchmarks.kv_accuracy [--model FOLDER] [--dtype DTYPE] [--lines N] [--file TEXT] [--json FILE]

On a CPU: attention reads float32 keys and values, or what is left of them in float8_e4m3fn, rounded as the GPU's
kernel does (worker/engine/cuda/placing.py). Every token of every line is scored, teacher forced, and the likeliest next
token compared. Without --file the text is the demo model's: lines it was trained on, and lines that were held out.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.settings import DEMO_FOLDER
from worker.engine.attention import attend_prompts
from worker.engine.kv_dtype import FP8
from worker.engine.loader import Model, load_model
from worker.engine.tokenizer import load_tokenizer
from worker.engine.transformer import forward, logits

Round = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Cost:
    """Of all scored tokens. Distances are between a token's logprobs over the two caches, natural logs."""

    num_tokens: int
    mean_distance: float
    largest_distance: float
    same_greedy: float  # share of places where the likeliest next token is the same
    exact_perplexity: float
    rounded_perplexity: float


def round_to_fp8(x: Tensor) -> Tensor:
    """What a float8 cache gives back of x."""
    return x.float().clamp(-448, 448).to(FP8).to(x.dtype)


def score(model: Model, token_ids: list[int], keep: Round) -> tuple[Tensor, Tensor]:
    """Score a text that attends over what `keep` leaves of its keys and values.

    Gives the logprobs [T - 1] of its tokens from the second on, and the likeliest tokens [T - 1] in their places.
    """
    num = len(token_ids)
    tokens = torch.tensor(token_ids + [0] * (-num % 16))
    positions = torch.arange(len(tokens))

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend_prompts(q, keep(k), keep(v), [len(tokens)], model.spec.windows[layer])

    hidden = forward(model.weights, model.spec, tokens, positions, attend)
    scores = logits(model.weights, model.spec, hidden)[: num - 1]
    logprobs = scores.log_softmax(-1).gather(1, tokens[1:num, None])[:, 0]
    return logprobs, scores.argmax(-1)


@torch.inference_mode()
def measure(model: Model, texts: list[list[int]]) -> Cost:
    """Score texts, of two tokens at least, both ways."""
    exact = [score(model, text, lambda x: x) for text in texts]
    rounded = [score(model, text, round_to_fp8) for text in texts]
    logprobs, likeliest = (torch.cat(parts) for parts in zip(*exact, strict=True))
    logprobs_rounded, likeliest_rounded = (torch.cat(parts) for parts in zip(*rounded, strict=True))
    distance = (logprobs - logprobs_rounded).abs()
    return Cost(
        num_tokens=len(logprobs),
        mean_distance=float(distance.mean()),
        largest_distance=float(distance.max()),
        same_greedy=float((likeliest == likeliest_rounded).float().mean()),
        exact_perplexity=math.exp(-float(logprobs.mean())),
        rounded_perplexity=math.exp(-float(logprobs_rounded.mean())),
    )


def read_texts(file: Path | None, num_lines: int) -> dict[str, list[str]]:
    """Texts by what they are to the model: lines of a file, or of the demo model's two parts."""
    if file is not None:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {file.name: lines[:num_lines]}
    from worker.trainer.corpus import in_validation, standard_library_entries
    from worker.trainer.settings import TrainSettings

    percent = TrainSettings().validation_percent
    parts: dict[str, list[str]] = {"trained on": [], "held out": []}
    for entry in standard_library_entries():
        parts["held out" if in_validation(entry, percent=percent) else "trained on"].append(entry.line)
    # Neighbours of the corpus are alike: lines from all over it say more.
    return {name: lines[:: max(len(lines) // num_lines, 1)][:num_lines] for name, lines in parts.items()}


def main() -> None:
    """Measure each kind of text and print a row of a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=DEMO_FOLDER)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--lines", type=int, default=150)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    model = load_model(arguments.model, device="cpu", dtype=arguments.dtype)
    tokenizer = load_tokenizer(model.folder)
    assert tokenizer is not None, "the model's folder holds a tokenizer"
    costs: dict[str, Cost] = {}
    print("| text | tokens | mean distance | largest | same greedy | perplexity | with fp8 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, lines in read_texts(arguments.file, arguments.lines).items():
        encoded = [tokenizer.encode(line, add_special_tokens=True)[: model.spec.context_length] for line in lines]
        cost = costs[name] = measure(model, [token_ids for token_ids in encoded if len(token_ids) > 1])
        print(
            f"| {name} | {cost.num_tokens} | {cost.mean_distance:.4f} | {cost.largest_distance:.3f}"
            f" | {cost.same_greedy:.2%} | {cost.exact_perplexity:.4f} | {cost.rounded_perplexity:.4f} |"
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({name: asdict(cost) for name, cost in costs.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
