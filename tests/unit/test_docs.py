"""The documentation names real files, every setting with its default, and every arrow between statuses."""

import re
from pathlib import Path

import pytest

from models.generation import ChatRequest, CompletionRequest
from models.refusals import UNSUPPORTED, UNSUPPORTED_IN_RESPONSES
from models.requests import DEFAULT_MAX_TOKENS
from models.response_request import ResponseRequest
from models.settings import Settings
from models.status import ARROWS, FINAL, Status

ROOT = Path(__file__).parents[2]
DOCS = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "decisions.md"]  # a dated log may be past
FILE = re.compile(r"`([\w./-]+/[\w-]+\.(?:py|yml|md))`")
STANDARD = {"database_url": "DATABASE_URL", "redis_url": "REDIS_URL"}


def rows(text: str, *, columns: int) -> list[tuple[str, ...]]:
    """The body rows of the tables with so many columns."""
    lines = (line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `") or "| (" in line)
    return [tuple(cell.strip() for cell in cells) for cells in lines if len(cells) == columns]


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_page_names_files_that_exist(page: Path) -> None:
    assert [name for name in FILE.findall(page.read_text(encoding="utf-8")) if not (ROOT / name).exists()] == []


def test_one_prompt_is_followed_in_ten_files() -> None:
    steps = re.findall(r"^\d+\. `([\w./]+)`", (ROOT / "docs/life-of-a-job.md").read_text(), flags=re.MULTILINE)

    assert len(set(steps)) == len(steps) == 10


def test_settings_table_is_complete_and_true() -> None:
    table = {row[0].strip("`"): row[1].strip("`") for row in rows((ROOT / "docs/operations.md").read_text(), columns=3)}
    names = {name: STANDARD.get(name, f"BATCHMILL_{name.upper()}") for name in Settings.model_fields}

    assert set(table) == set(names.values())
    for field, variable in names.items():
        default = Settings.model_fields[field].default
        assert default is None or table[variable] == str(default), variable


def test_parameter_tables_are_complete_and_true() -> None:
    text = (ROOT / "docs/parameters.md").read_text()
    table = {row[0].strip("`"): row[1].strip("`") for row in rows(text, columns=4)}
    fields = CompletionRequest.model_fields | ChatRequest.model_fields | ResponseRequest.model_fields
    special = {"max_tokens": str(DEFAULT_MAX_TOKENS), "seed": "drawn", "logprobs": "none"}
    defaults = {name: "required" if field.is_required() else spelled(field.default) for name, field in fields.items()}

    assert table == defaults | special
    assert [name for name in {**UNSUPPORTED, **UNSUPPORTED_IN_RESPONSES} if f"`{name}`" not in text] == []


def spelled(default: object) -> str:
    """A default as the tables have it."""
    if default is None or isinstance(default, bool):
        return str(default).lower()
    return str(default)


def test_glossary_has_every_status_and_every_arrow() -> None:
    text = (ROOT / "docs/glossary.md").read_text()
    arrows = {(row[0].strip("`"), row[1].strip("`")) for row in rows(text, columns=4)}

    assert [row[0].strip("`") for row in rows(text, columns=2)] == [status.value for status in Status]
    assert arrows == {(arrow.start or "(none)", arrow.end.value) for arrow in ARROWS}
    assert len(FINAL) == 4  # "the last four are final"
