"""The GPU's sampler against the CPU's way of drawing in float64, and that no row depends on another."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from tests.unit.engine.test_filters import kept_plainly
from worker.engine.cuda.sampling import sample_rows
from worker.engine.randomness import uniform
from worker.engine.sampling import Features, SamplingState, sample

Settings = dict[str, Any]  # of tensors [B]
OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 5, "generated": 0}
# So near a border of the running sum, as a share of the whole, sums in float32 may fall on either side.
ROUNDING = 1e-5


def settings_of(num_rows: int, **changes: float | Sequence[float]) -> Settings:
    """One value for all rows, or one a row."""
    values = {name: torch.tensor(changes.get(name, off)) for name, off in OFF.items()}
    return {name: value.expand(num_rows).contiguous() for name, value in values.items()}


def mixed_settings(num_rows: int, *, seed: int = 0) -> Settings:
    """Every setting drawn for each row from values that matter, off among them."""
    generator = torch.Generator().manual_seed(seed)

    def some(*values: float) -> Tensor:
        return torch.tensor(values)[torch.randint(len(values), (num_rows,), generator=generator)]

    return {
        "temperature": some(0.0, 0.7, 1.0, 1.9),
        "top_k": some(0, 0, 1, 20, 64, 100),
        "top_p": some(1.0, 0.0, 0.5, 0.9, 0.99),
        "min_p": some(0.0, 0.05, 0.4),
        "seed": torch.randint(2**63 - 1, (num_rows,), generator=generator),
        "generated": torch.randint(1000, (num_rows,), generator=generator),
    }


def scores_of(num_rows: int, num_tokens: int, *, scale: float = 3.0, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, num_tokens, generator=torch.Generator().manual_seed(seed)) * scale


def drawn(
    scores: Tensor, settings: Settings, device: torch.device, changed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    on_device = scores.to(device)
    tokens, logprobs = sample_rows(
        on_device,
        on_device if changed is None else changed.to(device),
        **{name: value.to(device) for name, value in settings.items()},
    )
    return tokens.cpu(), logprobs.cpu()


def drawn_on_cpu(scores: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    num_rows = len(scores)
    none = torch.zeros(num_rows, dtype=torch.int64)
    state = SamplingState(**settings, min_tokens=none, stop_ids=none[:, None] - 1)
    return sample(scores, state, Features(sampled=True, filtered=True))


def replay(
    scores: Tensor, *, temperature: float, top_k: int, top_p: float, min_p: float, seed: int, generated: int
) -> tuple[int, float]:
    """Draw a row [V] by filters.py's rule in float64 -> token, and how far from any border its sums were."""
    weights = (scores - scores.max()).div(temperature).exp()
    order = weights.sort(descending=True, stable=True).indices
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    num = min(top_k or len(order), len(order))
    falling = weights[order].double().cumsum(-1)
    limit = float(top_p * falling[num - 1]) if top_p < 1 else torch.inf
    pool = weights.double() * (weights >= torch.tensor(min_p))
    if num < len(order) and (num <= 64 or top_p < 1):
        pool = pool * (weights >= weights[order[num - 1]])
    margin = torch.inf
    for attempt in range(len(order)):
        cumulative = pool.cumsum(-1)
        target = float(uniform(torch.tensor(seed), torch.tensor(generated), attempt)) * cumulative[-1]
        token = int(torch.searchsorted(cumulative, target, right=True))
        before = falling[rank[token]] - weights[token].double()
        margin = min(margin, 1.0, *((cumulative - target).abs() / cumulative[-1])[: int(pool.nonzero()[-1])].tolist())
        if limit > 0:
            margin = min(margin, float(abs(before - limit) / cumulative[-1]))
        if rank[token] < num and before <= limit:
            return token, margin
        pool = pool * (rank < rank[token])
    raise AssertionError("a refusal took nothing out")


def chi_square(counts: Tensor, expected: Tensor) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize(
    ("num_rows", "num_tokens", "scale"),
    [(40, 50, 3.0), (20, 700, 0.3), (20, 5003, 3.0), (6, 32000, 2.0), (2, 128256, 3.0)],
)
def test_tokens_are_those_that_exact_sums_give(
    num_rows: int, num_tokens: int, scale: float, device: torch.device
) -> None:
    """Scores are as coarse as a model's in bfloat16 are, so that many are equal."""
    scores = scores_of(num_rows, num_tokens, scale=scale).bfloat16().float()
    settings = mixed_settings(num_rows, seed=num_tokens)

    tokens, logprobs = drawn(scores, settings, device)

    num_equal = 0
    for row in range(num_rows):
        asked: dict[str, Any] = {name: value[row].item() for name, value in settings.items()}
        token, margin = int(scores[row].argmax()), 1.0
        if asked["temperature"] > 0:
            token, margin = replay(scores[row], **asked)
        assert tokens[row] == token or margin < ROUNDING, asked
        num_equal += int(tokens[row] == token)
    assert num_equal >= 0.95 * num_rows
    expected = scores.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=1e-5)


def test_tokens_are_those_of_the_cpu(device: torch.device) -> None:
    scores, settings = scores_of(30, 300), mixed_settings(30, seed=7)
    tokens, logprobs = drawn(scores, settings, device)
    expected = drawn_on_cpu(scores, settings)
    assert int((tokens == expected[0]).sum()) >= 29
    torch.testing.assert_close(logprobs[tokens == expected[0]], expected[1][tokens == expected[0]])


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"top_k": 3}, 3),
        ({"top_p": 0.25}, 3),
        ({"top_k": 3, "top_p": 0.5}, 2),
        ({"top_p": 0.0}, 1),
        ({"min_p": 1.0}, 8),
    ],
)
def test_equals_stay_in_order_of_id_and_top_p_is_strict(
    settings: dict[str, float], kept: int, device: torch.device
) -> None:
    """Of eight equal tokens a quarter of the mass is two, and the third has just that before it."""
    num_rows = 4 * kept
    tokens, _ = drawn(torch.zeros(num_rows, 8), settings_of(num_rows, **settings, seed=range(num_rows)), device)
    assert set(tokens.tolist()) == set(range(kept))


def test_min_p_holds_beside_top_k(device: torch.device) -> None:
    scores = torch.tensor([5.0, 4.9, 4.2, 0.0]).expand(24, -1).contiguous()
    tokens, _ = drawn(scores, settings_of(24, top_k=3, min_p=0.5, seed=range(24)), device)
    assert set(tokens.tolist()) == {0, 1}


@pytest.mark.parametrize("settings", [{"temperature": 2.0, "top_p": 0.8, "min_p": 0.1}])
def test_draws_follow_the_filtered_distribution(settings: dict[str, float], device: torch.device) -> None:
    num_draws = 120
    row = scores_of(1, 16, scale=1.5)[0]
    weights = ((row - row.max()) / settings["temperature"]).exp()
    filters = {name: value for name, value in settings.items() if name != "temperature"}
    kept = sorted(kept_plainly(weights, **filters))  # type: ignore[arg-type]

    tokens, _ = drawn(
        row.expand(num_draws, -1).contiguous(), settings_of(num_draws, **settings, generated=range(num_draws)), device
    )

    counts = tokens.bincount(minlength=16)[kept].double()
    assert counts.sum() == num_draws
    freedom = len(kept) - 1
    expected = weights[kept].double() / weights[kept].double().sum() * num_draws
    assert chi_square(counts, expected) < freedom + 4 * (2 * freedom) ** 0.5 + 8  # about 1 in 10,000


def test_temperature_zero_is_the_first_maximum(device: torch.device) -> None:
    scores = torch.zeros(3, 9000)
    scores[0, [4500, 4501, 8999]] = 1.0
    scores[1, [700, 4500]] = 1.0
    tokens, logprobs = drawn(scores, settings_of(3, temperature=0.0, top_k=5, top_p=0.1), device)
    assert tokens.tolist() == [4500, 700, 0]
    torch.testing.assert_close(logprobs, scores.log_softmax(-1).amax(-1))


@pytest.mark.parametrize("temperature", [1e-30, 1e-4])
def test_tiny_temperatures_are_argmax(temperature: float, device: torch.device) -> None:
    scores = scores_of(2, 50, scale=100.0)
    tokens, _ = drawn(scores, settings_of(2, temperature=temperature), device)
    assert tokens.equal(scores.argmax(-1))


def test_logprobs_are_of_the_raw_scores(device: torch.device) -> None:
    """And rows of either may lie further apart than they are long."""
    wide, changed = scores_of(2, 700), torch.full((2, 600), -torch.inf)
    changed[:, 500] = 3.0
    tokens, logprobs = drawn(wide.to(device)[:, :600], settings_of(2, temperature=[0.0, 1.0]), device, changed)
    assert tokens.tolist() == [500, 500]
    torch.testing.assert_close(logprobs, wide[:, :600].log_softmax(-1)[:, 500])


def test_banned_tokens_are_never_drawn(device: torch.device) -> None:
    """Also where a whole tile is banned."""
    changed = torch.full((6, 9000), -torch.inf)
    changed[:, [4096, 5000, 8999]] = torch.tensor([1.0, 0.5, 0.0])
    settings = settings_of(6, temperature=5.0, seed=range(6), top_k=[0, 0, 2, 50, 100, 0], top_p=[1, 0.9, 1, 1, 0.9, 1])
    tokens, _ = drawn(torch.zeros(6, 9000), settings, device, changed)
    assert set(tokens.tolist()) <= {4096, 5000, 8999}


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # numpy's, where the interpreter computes no numbers
def test_rows_without_numbers_end_and_harm_no_neighbour(device: torch.device) -> None:
    """A result has the same bits alone and beside rows of NaN, of infinity, without any token, greedy or cut short."""
    scores = scores_of(9, 4500)
    scores[0] = torch.nan
    scores[1, 4400] = torch.nan
    scores[2, 3] = torch.inf
    scores[3] = -torch.inf
    settings = settings_of(
        9,
        temperature=[1, 1, 1, 1, 0, 1, 0.7, 1, 1],
        top_k=[30, 0, 100, 5, 0, 1, 30, 0, 0],
        top_p=[0.9, 0.9, 0.9, 1, 1, 1, 0.9, 0.5, 1],
        min_p=[0.1, 0, 0.1, 0, 0, 0, 0.1, 0, 0],
        seed=range(9),
        generated=range(9),
    )

    tokens, logprobs = drawn(scores, settings, device)

    assert bool(((tokens >= 0) & (tokens < 4500)).all())
    assert logprobs.isfinite().tolist() == [False] * 4 + [True] * 5
    assert drawn_on_cpu(scores[4:], {name: value[4:] for name, value in settings.items()})[0].equal(tokens[4:])
    for row in range(4, 9):
        alone = {name: value[row : row + 1] for name, value in settings.items()}
        assert [value.tolist() for value in drawn(scores[row : row + 1], alone, device)] == [
            [tokens[row].item()],
            [logprobs[row].item()],
        ]
