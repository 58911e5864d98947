import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from worker.trainer import corpus
from worker.trainer.corpus import Entry, in_validation, standard_library_entries
from worker.trainer.harvest import main, summarise

DIGEST = (
    "import hashlib; from worker.trainer.corpus import standard_library_entries as entries;"
    "print(hashlib.sha256(repr(entries()).encode()).hexdigest())"
)


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    return standard_library_entries()


def test_corpus_holds_what_a_reader_will_ask(entries: list[Entry]) -> None:
    summaries = {entry.name: entry.summary for entry in entries}
    assert len(entries) > 3000
    assert summaries["json.dumps"].startswith("Serialize")
    assert {"shutil.copy", "os.path.join", "str.split", "math.sqrt", "open", "with"} <= summaries.keys()


def test_corpus_has_each_name_once_and_sorted(entries: list[Entry]) -> None:
    names = [entry.name for entry in entries]
    assert names == sorted(set(names))


def test_corpus_lines_are_plain_single_lines(entries: list[Entry]) -> None:
    assert all(entry.line.isascii() and entry.line.isprintable() for entry in entries)
    assert all(12 <= len(entry.summary) <= 240 and entry.summary[-1] in ".!?" for entry in entries)


def test_corpus_names_no_address_and_no_path_of_this_machine(entries: list[Entry]) -> None:
    bound = re.compile(r"0x[0-9a-f]{6}|/home/|/usr/|/root/|/tmp/")
    assert not [entry for entry in entries if bound.search(entry.line)]
    assert not [entry for entry in entries if sys.prefix in entry.line]


def test_corpus_is_the_same_in_a_process_with_another_hash_seed(entries: list[Entry]) -> None:
    digests = {hashlib.sha256(repr(entries).encode()).hexdigest() + "\n"}
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", DIGEST]
        digests.add(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)
    assert len(digests) == 1


def test_corpus_does_not_see_what_is_patched_here(entries: list[Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    """Test runners and libraries patch the standard library; once their words were in the corpus."""
    monkeypatch.setattr(json, "dumps", lambda value: "patched")
    assert standard_library_entries() == entries


def test_harvest_prints_the_corpus_but_for_what_is_patched_here(
    entries: list[Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    main()
    here = {Entry(name, summary) for name, summary in json.loads(capsys.readouterr().out)}
    assert len(here.symmetric_difference(entries)) < 50


def test_corpus_says_why_it_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "harvest.py"
    broken.write_text("raise SystemExit('no library here')")
    monkeypatch.setattr(corpus, "_HARVEST", broken)
    with pytest.raises(RuntimeError, match="no library here"):
        standard_library_entries()
    broken.write_text("print([])")
    with pytest.raises(RuntimeError, match="carries no documentation"):
        standard_library_entries()


def test_validation_holds_out_a_share_of_methods_only(entries: list[Entry]) -> None:
    held_out = [entry for entry in entries if in_validation(entry, percent=10)]
    methods = [entry for entry in entries if in_validation(entry, percent=100)]
    assert 0.05 < len(held_out) / len(methods) < 0.15
    assert in_validation(Entry("pathlib.Path.touch", "Any text."), percent=100)
    assert not in_validation(Entry("os.path.join", "Any text."), percent=100)


def test_validation_keeps_twins_on_one_side() -> None:
    twins = [Entry(f"module.Class{i}.close", "Closes the socket.") for i in range(20)]
    assert len({in_validation(entry, percent=50) for entry in twins}) == 1


@pytest.mark.parametrize(
    ("docstring", "summary"),
    [
        ("Return the sum\nof two numbers.\n\nMore.", "Return the sum of two numbers."),
        ("Return the sum of two numbers", "Return the sum of two numbers."),
        ("sum(a, b) -> number\n\nReturn the sum.", "Return the sum."),
        ("Use ``with`` and :func:`open` here.", "Use 'with' and open here."),
        ("Two options follow:\n  a  the first\n\nMore.", "Two options follow."),
        ("f(x)", None),
        ("See it.", None),
        ("", None),
        (None, None),
        ("Look at object at 0x7f0123456789 here.", None),
        ("Das ist schön und gut.", None),
    ],
)
def test_summarise_keeps_the_first_paragraph_of_prose(docstring: str | None, summary: str | None) -> None:
    assert summarise(docstring) == summary


def test_summarise_cuts_long_text_after_a_sentence() -> None:
    text = "A sentence of moderate length. " * 20
    summary = summarise(text)
    assert summary is not None
    assert len(summary) <= 240
    assert summary.endswith("length.")


def test_summarise_drops_one_endless_sentence() -> None:
    assert summarise("word and " * 60) is None
