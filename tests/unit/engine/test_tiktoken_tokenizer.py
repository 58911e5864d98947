"""Rank files, named encodings and their cache, and text that tiktoken alone cannot take."""

import base64
import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.engine.models import byte_pieces, write_tiktoken
from worker.engine import EngineError, RowError
from worker.engine import tiktoken_tokenizer as module
from worker.engine.tiktoken_tokenizer import TiktokenTokenizer, is_rank_file, load_named
from worker.engine.tokenizer import load_tokenizer

SPACES = r"[^\s]+|\s+(?!\S)|\s+"
BYTES = {bytes([byte]): byte for byte in range(256)}
ENCODING = tiktoken.Encoding("bytes", pat_str=SPACES, mergeable_ranks=BYTES, special_tokens={"<|end|>": 256})

PLUGIN = """\
from tiktoken.load import load_tiktoken_bpe
def ours():
    ranks = load_tiktoken_bpe("https://example.invalid/ours.tiktoken", expected_hash="{digest}")
    return {{"name": "ours", "pat_str": r"\\S+|\\s+", "mergeable_ranks": ranks, "special_tokens": {{"<|end|>": 190}}}}
ENCODING_CONSTRUCTORS = {{"ours": ours}}
"""
LOAD = """\
import sys; from pathlib import Path; from worker.engine.tokenizer import load_tokenizer
print(load_tokenizer(Path(sys.argv[1])).encode("a b", add_special_tokens=True))
"""
CLOSED_PROXY = "http://127.0.0.1:9"  # nobody listens at discard's port


def load_in_a_process(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Load a folder's tokenizer in a fresh process: tiktoken reads the environment and keeps what it loaded."""
    command = [sys.executable, "-c", LOAD, str(folder)]
    settings = os.environ | {"HTTPS_PROXY": CLOSED_PROXY, "https_proxy": CLOSED_PROXY} | environment
    return subprocess.run(command, env=settings, capture_output=True, text=True, check=False)


def write_plugin(root: Path) -> None:
    """Register an encoding with tiktoken as third parties do: a module in the namespace package tiktoken_ext."""
    ranks = "".join(f"{base64.b64encode(piece).decode()} {rank}\n" for rank, piece in enumerate(byte_pieces()))
    (root / "tiktoken_ext").mkdir()
    digest = hashlib.sha256(ranks.encode()).hexdigest()
    (root / "tiktoken_ext" / "ours.py").write_text(PLUGIN.format(digest=digest))
    key = hashlib.sha1(b"https://example.invalid/ours.tiktoken").hexdigest()  # tiktoken's name of a cached file
    (root / "cache").mkdir()
    (root / "cache" / key).write_text(ranks)


def test_named_encoding_is_read_from_the_cache(tmp_path: Path) -> None:
    write_plugin(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "tiktoken", "encoding": "ours", "bos_token": "<|end|>"}'
    )
    path = os.pathsep.join([str(Path.cwd()), str(tmp_path)])
    done = load_in_a_process(tmp_path, PYTHONPATH=path, TIKTOKEN_CACHE_DIR=str(tmp_path / "cache"))
    assert (done.stdout, done.returncode) == ("[190, 97, 32, 98]\n", 0), done.stderr


@pytest.mark.parametrize("name", ["cl100k_base", "o200k_base", "gpt2", "r50k_base", "p50k_base"])
def test_named_encoding_without_file_or_network_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for variable in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(variable, CLOSED_PROXY)
    with pytest.raises(EngineError, match=f"encoding {name} is not cached.*ProxyError.*TIKTOKEN_CACHE_DIR"):
        load_named(tmp_path, {"encoding": name})


def test_named_encoding_does_not_wait_for_a_network_that_never_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxy = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for variable in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(variable, proxy)
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
        monkeypatch.setattr(module, "_DOWNLOAD_SECONDS", 0.3)
        with pytest.raises(EngineError, match=r"cl100k_base is not cached .*no answer within 0\.3 s"):
            load_named(tmp_path, {"encoding": "cl100k_base"})


def test_unknown_encoding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"'cl200k' is not one tiktoken knows; .*cl100k_base"):
        load_named(tmp_path, {"encoding": "cl200k"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pattern": "("}, "no tiktoken encoding"),
        ({"special_tokens": None}, "does not map special_tokens"),
        ({"bos_token": "<|none|>"}, "lacks <|none|>"),
    ],
)
def test_broken_configuration_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    write_tiktoken(tmp_path, **changes)
    with pytest.raises(EngineError, match=message.replace("|", r"\|")):
        load_tokenizer(tmp_path)


def test_broken_rank_file_is_named(tmp_path: Path) -> None:
    write_tiktoken(tmp_path)
    (tmp_path / "tokenizer.model").write_text("not a rank\n")
    with pytest.raises(EngineError, match="rank file"):
        load_tokenizer(tmp_path)


def test_bos_token_is_left_out_where_the_configuration_says_so(tmp_path: Path) -> None:
    write_tiktoken(tmp_path, bos_token="<|start|>", add_bos_token=False)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer is not None
    assert tokenizer.encode("a", add_special_tokens=True) == [97]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"IQ== 0\nIg== 1\n", True),
        (b"IQ== 0\r\n", True),
        (b"\n\x0e\n\x05<unk>", False),
        (b"", False),
        (b"a b\n", False),
    ],
)
def test_rank_files_are_told_from_others(tmp_path: Path, content: bytes, expected: bool) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    assert is_rank_file(tmp_path / "tokenizer.model") is expected


def test_a_panic_of_the_library_is_the_rows_fault() -> None:
    """A rank file that lacks a byte makes tiktoken panic, which no `except Exception` sees."""
    ranks = {token: rank for token, rank in BYTES.items() if token != b"z"}
    tokenizer = TiktokenTokenizer(tiktoken.Encoding("holed", pat_str=SPACES, mergeable_ranks=ranks, special_tokens={}))
    with pytest.raises(RowError, match="cannot encode this text") as caught:
        tokenizer.encode("az", add_special_tokens=False)
    assert not isinstance(caught.value.__cause__, Exception)
    assert tokenizer.encode("ab", add_special_tokens=False) == [97, 98]


@given(st.text(alphabet="a \n\u00e9", max_size=60), st.integers(1, 9))
def test_ordinary_text_is_encoded_as_tiktoken_does(text: str, repeat: int) -> None:
    tokenizer = TiktokenTokenizer(ENCODING)
    assert tokenizer.encode(text * repeat, add_special_tokens=False) == ENCODING.encode_ordinary(text * repeat)


@pytest.mark.parametrize("unit", ["a", " ", "ab ", "\u00e9"])
def test_long_runs_are_cut_and_nothing_else(monkeypatch: pytest.MonkeyPatch, unit: str) -> None:
    text = unit * 60_000 + "x y"
    parts = list(module._cut_runs(text))
    assert "".join(parts) == text
    assert [len(part) for part in parts[:-1]] == ([] if unit == "ab " else [25_000, 25_000])
