"""Values of options that are more than a word or a number."""

import typer


def parse_rows(text: str) -> str:
    """Let through `auto` or a number above zero; the settings know the most."""
    if text != "auto" and not (text.isascii() and text.isdigit() and int(text) > 0):
        raise typer.BadParameter("must be auto or a number above 0")
    return text


def check_fraction(value: float | None) -> float | None:
    """Let through a fraction above 0 and at most 1."""
    if value is not None and not 0 < value <= 1:
        raise typer.BadParameter("must be above 0 and at most 1")
    return value
