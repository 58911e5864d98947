"""How long a key lasts, as it is written on the command line."""

from datetime import timedelta

import pytest

from cli.keys import lifetime
from models.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "lasts"),
    [("30d", timedelta(days=30)), ("12h", timedelta(hours=12)), ("5m", timedelta(minutes=5))],
)
def test_lifetime_is_a_number_and_a_unit(text: str, lasts: timedelta) -> None:
    assert lifetime(text) == lasts


@pytest.mark.parametrize("text", ["", "30", "0d", "-1d", "1.5d", "5y", "3651d", "30d ", "٣d"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="such as 30d"):
        lifetime(text)
