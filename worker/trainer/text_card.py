"""The model card of a model trained on a user's own text files, filled with the run's figures."""

from collections.abc import Sequence
from pathlib import Path

from worker.trainer.report import Answer, Figures
from worker.trainer.settings import TrainSettings

_CARD = """\
---
pipeline_tag: text-generation
---

# A small language model

A Llama-like decoder ({figures.num_parameters:,} parameters, {settings.saved_dtype}) trained from scratch on text
files. It continues text in their manner; it holds no chat template.

| | loss, nats per token |
| --- | --- |
| text trained on | {train_loss} |
| text held out | {validation_loss} |

{settings.num_steps:,} steps, {millions:.1f} million tokens seen, {minutes:.0f} minutes. `training.json` holds every
setting and the loss at each validation.
{picture}
## Samples

{samples}
"""
_PICTURE = "\n![Training and validation loss over the steps](loss.png)\n"


def write_text_card(folder: Path, settings: TrainSettings, figures: Figures, samples: Sequence[Answer]) -> None:
    """Write README.md; the picture is shown where there is one."""
    text = _CARD.format(
        figures=figures,
        settings=settings,
        train_loss=_loss(figures.train_loss),
        validation_loss=_loss(figures.validation_loss),
        millions=figures.num_tokens_seen / 1e6,
        minutes=figures.seconds / 60,
        picture=_PICTURE if (folder / "loss.png").is_file() else "",
        samples="\n".join(_sample(sample) for sample in samples),
    )
    (folder / "README.md").write_text(text, encoding="utf-8", newline="\n")


def _loss(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _sample(sample: Answer) -> str:
    """A beginning from the text and how the model goes on, as indented text: it may hold any markup."""
    lines = f"{sample.prompt} >>> {sample.text}".splitlines()
    return f"From a beginning that was {sample.origin}:\n\n" + "".join(f"    {line}\n" for line in lines)
