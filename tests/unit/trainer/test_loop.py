from dataclasses import replace
from pathlib import Path

import pytest
import torch

import worker.trainer
from worker.trainer import picture
from worker.trainer.corpus import Entry
from worker.trainer.data import IGNORED, Sample, encode, endless_batches, make_encoding, ordered_batches
from worker.trainer.loop import learning_rate
from worker.trainer.network import batch_loss, complete, make_spec, mean_loss, recall, trainable_weights
from worker.trainer.settings import TrainSettings

SETTINGS = TrainSettings(
    vocab_size=257, hidden_size=16, intermediate_size=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8
)
SPEC = make_spec(SETTINGS, vocab_size=257, end_id=256)
WEIGHTS = trainable_weights(SPEC, seed=3)
SAMPLES = [Sample(list(range(start, start + length)), 2) for start, length in ((7, 9), (40, 4), (90, 13), (3, 6))]


def test_batches_pad_and_shift() -> None:
    (batch,) = ordered_batches([Sample([5, 6, 7, 256], 1), Sample([8, 256], 1)], batch_tokens=64)
    assert batch.tokens.tolist() == [[8, 0, 0], [5, 6, 7]]
    assert batch.targets.tolist() == [[256, IGNORED, IGNORED], [6, 7, 256]]


def test_batches_stay_within_their_tokens_and_cover_every_sample() -> None:
    samples = [Sample([number, *range(number % 7 + 2)], 1) for number in range(100)]
    batches = list(ordered_batches(samples, batch_tokens=40))
    assert all(batch.tokens.numel() <= 40 for batch in batches)
    assert sorted(int(row[0]) for batch in batches for row in batch.tokens) == list(range(100))


def test_epochs_differ_and_repeat_by_seed() -> None:
    samples = [Sample([number, 1, 256], 1) for number in range(50)]

    def epochs(seed: int) -> list[list[int]]:
        batches = endless_batches(samples, batch_tokens=15, seed=seed)
        rows = [int(row[0]) for _ in range(20) for row in next(batches).tokens]  # 10 batches of 5 an epoch
        return [rows[:50], rows[50:]]

    first, second = epochs(1)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert epochs(1) == [first, second]
    assert epochs(2) != [first, second]


def test_endless_batches_refuse_an_empty_split() -> None:
    with pytest.raises(ValueError, match="empty"):
        next(endless_batches([], batch_tokens=16, seed=1))


def test_encode_ends_each_entry_and_leaves_out_long_ones() -> None:
    encoding = make_encoding({bytes([byte]): byte for byte in range(256)})
    entries = [Entry("ab", "A short one."), Entry("cd", "A long one. " * 20)]
    (sample,) = encode(entries, encoding, 40)
    assert bytes(sample.token_ids[:-1]) == b"ab: A short one."
    assert (sample.token_ids[-1], sample.num_prompt_tokens) == (256, 3)


def test_a_sample_has_the_same_loss_alone_and_in_a_padded_batch() -> None:
    together = sum(batch_loss(WEIGHTS, SPEC, batch)[0] for batch in ordered_batches(SAMPLES, batch_tokens=1000))
    alone = sum(batch_loss(WEIGHTS, SPEC, next(ordered_batches([one], batch_tokens=1000)))[0] for one in SAMPLES)
    torch.testing.assert_close(together, alone)


def test_mean_loss_is_per_token_whatever_the_batches() -> None:
    assert mean_loss(WEIGHTS, SPEC, []) is None
    losses = [mean_loss(WEIGHTS, SPEC, [sample]) for sample in SAMPLES]
    tokens = [len(sample) - 1 for sample in SAMPLES]
    expected = sum(loss * count for loss, count in zip(losses, tokens, strict=True) if loss) / sum(tokens)
    assert mean_loss(WEIGHTS, SPEC, SAMPLES) == pytest.approx(expected, rel=1e-5)


def test_recall_counts_what_greedy_decoding_repeats() -> None:
    answered = [7, 8, *complete(WEIGHTS, SPEC, [7, 8], max_tokens=6)]
    wrong = [7, 8, *answered[2:-1], (answered[-1] + 1) % 256]
    assert recall(WEIGHTS, SPEC, [Sample(answered, 2), Sample(wrong, 2)]) == 0.5


def test_complete_stays_within_the_context() -> None:
    prompt = [1] * (SPEC.context_length - 2)
    assert len(complete(WEIGHTS, SPEC, prompt, max_tokens=9)) <= 2


def test_complete_stops_at_the_end_token() -> None:
    first = complete(WEIGHTS, SPEC, [7, 8], max_tokens=1)
    assert complete(WEIGHTS, replace(SPEC, eos_token_ids=tuple(first)), [7, 8], max_tokens=6) == []


def test_losses_are_not_drawn_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "find_spec", lambda name: None)
    assert not picture.draw_losses(tmp_path / "loss.png", [])
    assert not list(tmp_path.iterdir())


def test_trainer_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="Trainer"):
        _ = worker.trainer.Trainer


def test_learning_rate_rises_then_falls_to_its_floor() -> None:
    settings = TrainSettings(num_steps=100, warmup_steps=10, learning_rate=1.0, final_learning_rate_ratio=0.1)
    rates = [learning_rate(step, settings) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)


@pytest.mark.parametrize(
    "change",
    [{"vocab_size": 256}, {"num_heads": 3}, {"head_dim": 7}, {"num_steps": 0}, {"batch_tokens": 8}],
)
def test_settings_refuse_what_cannot_be_trained(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        TrainSettings(**change)  # type: ignore[arg-type]
