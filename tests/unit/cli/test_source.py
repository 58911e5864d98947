"""What makes two invocations the same run."""

from pathlib import Path

import pytest

from cli.source import fingerprint, open_source
from models.errors import ConfigurationError
from models.settings import load_settings


def test_same_bytes_are_the_same_run_whatever_their_name(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x\n")
    (tmp_path / "b").write_text("x\n")
    (tmp_path / "c").write_text("y\n")
    settings = load_settings(model="noop")
    prints = [fingerprint(open_source(str(tmp_path / name), spool_folder=tmp_path), settings, None) for name in "abc"]
    assert prints[0] == prints[1] != prints[2]


def test_other_weights_are_another_run(tmp_path: Path) -> None:
    (tmp_path / "prompts").write_text("x\n")
    source = open_source(str(tmp_path / "prompts"), spool_folder=tmp_path)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "weights").write_bytes(b"1" * 100)
    settings = load_settings(model=str(model))
    before = fingerprint(source, settings, model)
    (model / "weights").write_bytes(b"2" * 100)
    assert fingerprint(source, settings, model) != before


@pytest.mark.parametrize(("name", "reason"), [("none.jsonl", "cannot read"), (".", "is a folder")])
def test_missing_input_is_said_in_a_sentence(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        open_source(str(tmp_path / name), spool_folder=tmp_path)
