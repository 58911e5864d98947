"""Any text files as training data: read, cut into windows of the context's length, some of them held out."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from worker.trainer.bpe import train_ranks
from worker.trainer.data import Dataset, Sample, make_encoding
from worker.trainer.settings import TrainSettings


def read_texts(files: Iterable[Path]) -> list[str]:
    """Read UTF-8 files, one text each. Raises OSError and ValueError, which name the file."""
    texts = []
    for file in files:
        try:
            texts.append(file.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8 text: byte {error.start} begins no character") from error
    return texts


def build_text_dataset(texts: Sequence[str], settings: TrainSettings) -> Dataset:
    """Learn the vocabulary from the texts and encode each, an end token after it, as windows that overlap by one token.

    So every token but a text's first is predicted once. Every n-th window is held out, by `validation_percent`; the
    vocabulary has seen those too. Raises ValueError where there is nothing to learn from.
    """
    ranks = train_ranks(texts, num_ranks=settings.vocab_size - 1)
    encoding = make_encoding(ranks)
    windows = [
        window
        for text in texts
        for window in _windows([*encoding.encode_ordinary(text), len(ranks)], settings.context_tokens)
    ]
    if not windows:
        raise ValueError("the text files are empty: there is nothing to train on")
    every = 100 // settings.validation_percent if settings.validation_percent else len(windows) + 1
    train = [window for number, window in enumerate(windows, 1) if number % every]
    held_out = [window for number, window in enumerate(windows, 1) if number % every == 0]
    return Dataset(ranks, train, held_out)


def _windows(token_ids: list[int], width: int) -> list[Sample]:
    """Cut into samples of at most `width` tokens; one that predicts nothing is left out."""
    starts = range(0, len(token_ids) - 1, width - 1)
    return [Sample(token_ids[start : start + width], num_prompt_tokens=1) for start in starts]
