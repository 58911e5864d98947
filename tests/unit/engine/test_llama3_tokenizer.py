"""Meta's folders: a rank file alone."""

import base64
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.chat import load_chat_template
from worker.engine.llama3_tokenizer import special_token_names
from worker.engine.tokenizer import Tokenizer, load_tokenizer

# As tokenizer.py of github.com/meta-llama/llama3 writes it.
META_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
RANKS = {bytes([byte]): byte for byte in range(256)} | {b" a": 256, b"ab": 257, b"12": 258, b"\n\n": 259}
META = tiktoken.Encoding("meta", pat_str=META_PATTERN, mergeable_ranks=RANKS, special_tokens={})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("meta")
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in RANKS.items()]
    (folder / "tokenizer.model").write_text("".join(lines))
    (folder / "params.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    tokenizer = load_tokenizer(folder)
    assert tokenizer is not None
    return tokenizer


def test_special_tokens_are_those_of_llama_3_1() -> None:
    names = special_token_names()
    assert len(set(names)) == 256
    # ids of config.json and tokenizer_config.json of Llama 3.1, less 128000
    expected = {0: "begin_of_text", 1: "end_of_text", 2: "reserved_special_token_0", 4: "finetune_right_pad_id"}
    expected |= {5: "reserved_special_token_2", 6: "start_header_id", 7: "end_header_id", 8: "eom_id", 9: "eot_id"}
    expected |= {10: "python_tag", 11: "reserved_special_token_3", 255: "reserved_special_token_247"}
    assert {index: names[index] for index in expected} == {index: f"<|{name}|>" for index, name in expected.items()}


def test_special_tokens_follow_the_ranks_and_begin_and_end_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.special_tokens["<|begin_of_text|>"] == len(RANKS)
    assert tokenizer.encode("ab", add_special_tokens=True) == [len(RANKS), 257]
    assert tokenizer.stop_token_ids == (len(RANKS) + 1, len(RANKS) + 8, len(RANKS) + 9)


@given(text=st.text(alphabet="ab 12\n'sS!\u00e9\u4e2d\t", max_size=40))
def test_text_is_split_as_meta_splits_it(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode(text, add_special_tokens=False) == META.encode_ordinary(text)


def test_chat_is_laid_out_as_meta_lays_it_out(folder: Path, tokenizer: Tokenizer) -> None:
    """ChatFormat.encode_dialog_prompt of the same file: header, two line ends, stripped content, end of turn."""
    template = load_chat_template(folder, tokenizer)
    assert template is not None
    ids = template.encode([{"role": "system", "content": " a<|eot_id|>\n"}, {"role": "user", "content": "12"}])

    def header(role: str) -> list[int]:
        begin, end = (tokenizer.special_tokens[f"<|{side}_header_id|>"] for side in ("start", "end"))
        return [begin, *META.encode_ordinary(role), end, *META.encode_ordinary("\n\n")]

    eot = tokenizer.special_tokens["<|eot_id|>"]
    system = [*header("system"), *META.encode_ordinary("a<|eot_id|>"), eot]
    assert ids == [len(RANKS), *system, *header("user"), *META.encode_ordinary("12"), eot, *header("assistant")]


def test_a_folder_s_own_template_wins(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("own")
    template = load_chat_template(tmp_path, tokenizer)
    assert template is not None
    assert template.encode([{"role": "user", "content": "x"}]) == META.encode_ordinary("own")
