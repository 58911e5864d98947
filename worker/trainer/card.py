"""The model card: README.md of the trained folder, filled with the run's own figures so that it cannot disagree."""

import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from worker.trainer.harvest import MAX_SUMMARY_CHARS
from worker.trainer.loop import Trained
from worker.trainer.report import Answer, Figures
from worker.trainer.settings import TrainSettings

_CARD = """\
---
license: apache-2.0
language: en
pipeline_tag: text-generation
---

# The demo model: what would this standard-library name do?

A small Llama-like decoder ({num_parameters:,} parameters, {saved_dtype}) that answers the name of something in Python's
standard library with one line that says what it does. It ships with Batchmill so that every command, test and example
has a real model to run: a person can judge its answers, their lengths differ, and it learned when to stop.

| prompt | greedy answer | the name |
| --- | --- | --- |
{answers}

## Data

Public modules, classes, functions, methods and keywords of Python {python}'s standard library, read from the running
interpreter: one line an entry, `name: first paragraph of its documentation`, then the end token `<|end|>`. Paragraphs
are folded into one line and cut after a whole sentence within {max_chars} characters; signatures and text that is not
prose are left out. {num_train:,} entries are trained on, {num_validation} are held out: a share of the methods of
classes, chosen by a hash of their text. The corpus follows the interpreter: another version of Python, or one built
without a module, gives other text and so another model.

## Recipe

- Tokenizer: byte-level BPE trained on the same lines, {vocab_size:,} tokens with the end token, as tiktoken ranks in
  `tokenizer.model`; the splitting pattern is in `tokenizer_config.json`. No token is put before a prompt.
- Network: {num_layers} layers, width {hidden_size}, {num_heads} query and {num_kv_heads} key/value heads of {head_dim},
  SwiGLU of {intermediate_size}, tied embeddings, rotary positions, context {context_tokens}. Training runs through the
  engine's own forward pass in float32.
- AdamW (betas {betas}, weight decay {weight_decay} on matrices), learning rate {learning_rate} after {warmup_steps}
  steps of warm-up, then a cosine to {final_ratio:.0%} of it; gradients clipped at {max_grad_norm}; {num_steps:,} steps
  of at most {batch_tokens:,} tokens; every entry is a row of its own and sees no neighbour; seed {seed}.
- {minutes:.0f} minutes on {num_threads} CPU thread{plural}, {millions:.1f} million tokens seen.

Make it again: `batchmill train --output examples/demo-model`. The same Python, torch and kind of processor give the
same weights.

## Figures

Measured on the weights as saved, in float32.

| | training entries | held-out methods |
| --- | --- | --- |
| loss, nats per token of name, answer and end | {train_loss} | {validation_loss} |
| answers that greedy decoding repeats word for word | {recall:.1%} | |
{picture}
The curve of the held-out methods turns early (its lowest point was {lowest}): from there on the network learns
its entries by heart. For a demonstration that is wanted, and it is why the run goes on; it is no sign of understanding.
`training.json` holds the settings and the loss at each validation.

## Limits

It knows one kind of line, in English, and nothing else: no code, no conversation, no facts beyond its entries. For a
name it has not seen it makes up a sentence in the style of the documentation, which is often wrong and reads as sure
as the right ones. Use Python's `help()` for the truth.

## Licence

The weights are under Apache-2.0, as Batchmill is. The text they were trained on is Python's own documentation,
copyright Python Software Foundation, under the PSF License Agreement (https://docs.python.org/3/license.html); the
answers quote it.
"""


def write_card(
    folder: Path, trained: Trained, settings: TrainSettings, figures: Figures, answers: Sequence[Answer]
) -> None:
    """Write README.md; the picture is shown where there is one."""
    picture = "\n![Training and validation loss over the steps](loss.png)\n"
    text = _CARD.format(
        **_recipe(trained, settings),
        **_measured(figures),
        answers="\n".join(_row(answer) for answer in answers),
        picture=picture if (folder / "loss.png").is_file() else "",
    )
    (folder / "README.md").write_text(text, encoding="utf-8", newline="\n")


def _recipe(trained: Trained, settings: TrainSettings) -> dict[str, object]:
    """What the card says of data, network and optimiser."""
    return asdict(settings) | {
        "python": platform.python_version(),
        "max_chars": MAX_SUMMARY_CHARS,
        "vocab_size": trained.spec.vocab_size,
        "betas": " and ".join(map(str, settings.betas)),
        "final_ratio": settings.final_learning_rate_ratio,
        "plural": "" if settings.num_threads == 1 else "s",
    }


def _measured(figures: Figures) -> dict[str, object]:
    """The figures, losses as text: a run without a held-out split has none."""
    return asdict(figures) | {
        "minutes": figures.seconds / 60,
        "millions": figures.num_tokens_seen / 1e6,
        "train_loss": _loss(figures.train_loss),
        "validation_loss": _loss(figures.validation_loss),
        "lowest": _loss(figures.lowest_validation_loss),
    }


def _loss(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _row(answer: Answer) -> str:
    text = answer.text.replace("|", "\\|")
    return f"| `{answer.prompt}` | {text} | {answer.origin} |"
