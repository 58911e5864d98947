"""The engine against Hugging Face's generate, on the same ragged greedy work in one run, one thread.

`python -m benchmarks.engine [--json FILE]`. Times are the process's own CPU seconds: other work on the machine then
stretches neither side. A small warm-up precedes each measurement and is not counted.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from worker.engine import Engine, Request, SamplingParams
from worker.engine.families import to_config
from worker.engine.info import EngineInfo
from worker.engine.spec import Spec
from worker.engine.weights import init_weights, save_weights

HF_BATCH_ROWS = 32
PROMPT_TOKENS = (16, 256)
OUTPUT_TOKENS = (16, 256)
TARGET_RATIO = 2.5
SPEC = Spec(  # 15.7 million parameters
    vocab_size=16384,
    hidden_size=384,
    intermediate_size=1024,
    num_layers=6,
    num_heads=6,
    num_kv_heads=2,
    head_dim=64,
    context_length=512,
    tie_word_embeddings=True,
)


@dataclass(frozen=True)
class Work:
    """One prompt and how many tokens to generate after it."""

    prompt: list[int]
    num_new_tokens: int


@dataclass(frozen=True)
class Result:
    """What one engine did with the work."""

    name: str
    output_tokens: int
    cpu_seconds: float
    wall_seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per CPU second."""
        return self.output_tokens / self.cpu_seconds


def make_work(num_prompts: int, seed: int) -> list[Work]:
    """Draw ragged prompts and output lengths, uniform between their limits."""
    rng = random.Random(seed)
    return [
        Work([rng.randrange(SPEC.vocab_size) for _ in range(rng.randint(*PROMPT_TOKENS))], rng.randint(*OUTPUT_TOKENS))
        for _ in range(num_prompts)
    ]


def save_model(folder: Path) -> None:
    """Write a random model as a Hugging Face folder, scaled up so that rounding decides no greedy tie."""
    weights = init_weights(SPEC, torch.Generator().manual_seed(0))
    for tensor in weights.tensors():
        tensor *= 3.0 if tensor.dim() > 1 else 1.0
    save_weights(folder, SPEC, weights)
    (folder / "config.json").write_text(json.dumps(to_config(SPEC)))


def run_engine(engine: Engine, work: list[Work]) -> list[list[int]]:
    """Decode with this project's engine."""
    params = [SamplingParams(max_tokens=item.num_new_tokens, temperature=0.0, ignore_eos=True) for item in work]
    requests = [Request(str(i), item.prompt, params=params[i]) for i, item in enumerate(work)]
    return [output.token_ids for output in engine.generate(requests)]


@torch.inference_mode()
def run_hugging_face(model: LlamaForCausalLM, work: list[Work]) -> list[list[int]]:
    """Decode in batches padded on the left, each as long as its longest row; prompts of like length share a batch.

    How long an answer will be is not known beforehand where stop tokens decide, so it does not order the batches.
    """
    untyped: Any = model  # its stubs do not type generate as a method
    order = sorted(range(len(work)), key=lambda i: len(work[i].prompt))
    tokens: dict[int, list[int]] = {}
    for start in range(0, len(order), HF_BATCH_ROWS):
        batch = order[start : start + HF_BATCH_ROWS]
        width = max(len(work[i].prompt) for i in batch)
        ids = torch.tensor([[0] * (width - len(work[i].prompt)) + work[i].prompt for i in batch])
        mask = torch.tensor([[0] * (width - len(work[i].prompt)) + [1] * len(work[i].prompt) for i in batch])
        longest = max(work[i].num_new_tokens for i in batch)
        out = untyped.generate(
            ids, attention_mask=mask, max_new_tokens=longest, min_new_tokens=longest, do_sample=False
        )
        for row, i in enumerate(batch):
            tokens[i] = out[row, width : width + work[i].num_new_tokens].tolist()
    return [tokens[i] for i in range(len(work))]


def measure(
    name: str, run: Callable[[list[Work]], list[list[int]]], work: list[Work]
) -> tuple[Result, list[list[int]]]:
    """Time one engine on the work."""
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = run(work)
    result = Result(
        name=name,
        output_tokens=sum(map(len, tokens)),
        cpu_seconds=time.process_time() - cpu,
        wall_seconds=time.perf_counter() - wall,
    )
    return result, tokens


def main() -> None:
    """Run both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--skip-peer", action="store_true", help="measure this engine alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    work = make_work(args.prompts, seed=1)
    with tempfile.TemporaryDirectory() as name:
        save_model(Path(name))
        engine = Engine.load(name, rows=args.rows, device="cpu", dtype=args.dtype)
        model = LlamaForCausalLM.from_pretrained(name, dtype=getattr(torch, args.dtype))
    run_engine(engine, make_work(4, seed=98))
    before = engine.stats()
    ours, our_tokens = measure("batchmill", lambda work: run_engine(engine, work), work)
    stats = {name: value - before[name] for name, value in engine.stats().items()} | {"rows": args.rows}
    results = [ours]
    agreeing = None
    if not args.skip_peer:
        run_hugging_face(model, make_work(4, seed=98))
        peer, peer_tokens = measure("hugging face", lambda work: run_hugging_face(model, work), work)
        results.append(peer)
        agreeing = sum(a == b for a, b in zip(our_tokens, peer_tokens, strict=True))
    report(results, info=engine.info, stats=stats, agreeing=agreeing, json_path=args.json)


def report(
    results: list[Result], *, info: EngineInfo, stats: dict[str, float], agreeing: int | None, json_path: Path | None
) -> None:
    """Print a table, and write the same as JSON."""
    print(f"{info.num_parameters / 1e6:.1f}M parameters, {info.dtype}, {info.fast_paths}")
    print(f"{'engine':<14}{'tokens':>8}{'CPU s':>8}{'wall s':>8}{'tok/CPU s':>11}")
    for result in results:
        row = f"{result.name:<14}{result.output_tokens:>8}{result.cpu_seconds:>8.1f}{result.wall_seconds:>8.1f}"
        print(f"{row}{result.tokens_per_second:>11.0f}")
    ratio = results[0].tokens_per_second / results[-1].tokens_per_second
    occupancy = stats["row_steps"] / (stats["steps"] * stats["rows"])
    print(
        f"occupancy {occupancy:.0%}, prefill {stats['prefill_seconds']:.1f} s, decode {stats['decode_seconds']:.1f} s"
    )
    if agreeing is not None:
        print(f"ratio {ratio:.2f} (target {TARGET_RATIO}); {agreeing} prompts have equal tokens")
    if json_path is not None:
        rows = [asdict(result) | {"tokens_per_second": result.tokens_per_second} for result in results]
        summary = {"results": rows, "ratio": ratio, "target": TARGET_RATIO, "agreeing": agreeing, "stats": stats}
        json_path.write_text(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    main()
