"""Templates in the manner of published models (chat_templates/), rendered and encoded as `transformers` does."""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from worker.engine.chat import ChatTemplate, load_chat_template
from worker.engine.tokenizer import load_tokenizer
from worker.engine.types import ChatOptions

SOURCES = Path(__file__).with_name("chat_templates")
LLAMA_TOKENS = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
CHATML_TOKENS = ["<|im_start|>", "<|im_end|>", "<|im_end|>|>x"]  # the last two overlap
TEMPLATES: dict[str, tuple[str, list[str]]] = {  # name: kind of tokenizer, special tokens
    "llama-3.1": ("byte level", LLAMA_TOKENS),
    "qwen-2.5": ("byte level", CHATML_TOKENS),
    "qwen-3": ("byte level", CHATML_TOKENS),
    "mistral": ("sentencepiece", ["<s>", "</s>", "[INST]", "[/INST]"]),
    "phi-3": ("sentencepiece", ["<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>", "<|system|>"]),
    "zephyr": ("sentencepiece", ["<s>", "</s>"]),
    "smollm-2": ("byte level", CHATML_TOKENS),
    "smollm-3": ("byte level", CHATML_TOKENS),
    "yi": ("sentencepiece", ["<s>", "</s>", *CHATML_TOKENS]),
}


def make_tokenizer(kind: str, special: list[str], *, rstrip: bool) -> tokenizers.Tokenizer:
    """A byte-level BPE as Llama 3's and Qwen's, or one of characters with byte fallback as Llama 2's, with merges."""
    if kind == "byte level":
        vocabulary = {piece: index for index, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        merges = [("\u010a", "\u010a"), ("h", "i"), ("\u0120", "hi"), ("<", "|")]
        vocabulary |= {left + right: len(vocabulary) + index for index, (left, right) in enumerate(merges)}
        tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        vocabulary = {"<unk>": 0} | {f"<0x{byte:02X}>": 1 + byte for byte in range(256)}
        letters = "\u2581" + "".join(map(chr, range(33, 127)))
        vocabulary |= {letter: len(vocabulary) + index for index, letter in enumerate(letters)}
        merges = [("h", "i"), ("\u2581", "hi"), ("\u2581", "\u2581"), ("<", "|")]
        vocabulary |= {left + right: len(vocabulary) + index for index, (left, right) in enumerate(merges)}
        bpe = models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
        tokenizer = tokenizers.Tokenizer(bpe)
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    tokenizer.add_special_tokens(
        [AddedToken(token, rstrip=rstrip, normalized=False, special=True) for token in special]
    )
    tokenizer.add_tokens(["<think>", "</think>"])  # not special, as in Qwen 3
    return tokenizer


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("templates")


@cache
def load(root: Path, name: str) -> tuple[ChatTemplate, PreTrainedTokenizerFast]:
    """Ours and theirs of one folder."""
    kind, special = TEMPLATES[name]
    source = (SOURCES / f"{name}.jinja").read_text()
    folder = root / name
    folder.mkdir()
    make_tokenizer(kind, special, rstrip=name == "phi-3").save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {"eos_token": special[1], "tokenizer_class": "PreTrainedTokenizerFast"}
    if special[0] != "<|im_start|>":
        config["bos_token"] = special[0]
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": source}))
    tokenizer = load_tokenizer(folder)
    assert tokenizer is not None
    ours = load_chat_template(folder, tokenizer)
    assert ours is not None
    return ours, PreTrainedTokenizerFast.from_pretrained(folder)


def theirs_ids(
    theirs: PreTrainedTokenizerFast, messages: list[dict[str, str]], *, sanitize_control_tokens: bool = False
) -> list[int]:
    rendered = theirs.apply_chat_template(
        messages,
        add_generation_prompt=True,
        sanitize_control_tokens=sanitize_control_tokens,
        return_dict=False,
        date_string="26 Jul 2024",
    )
    return list(rendered)


USER = {"role": "user", "content": " hi there \n\n"}
TURNS = [
    USER,
    {"role": "assistant", "content": "\n<think>\nhm\n</think>\n\nhi hi"},
    {"role": "user", "content": "hi\u00e9 {{ 1 }}"},
]
CONVERSATIONS = [[USER], TURNS, [{"role": "system", "content": "Be  brief. "}, *TURNS]]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["one", "turns", "system"])
def test_chats_have_the_tokens_transformers_gives_them(root: Path, name: str, messages: list[dict[str, str]]) -> None:
    ours, theirs = load(root, name)
    assert ours.encode(messages) == theirs_ids(theirs, messages)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("content", ["so far", " so far \n", "a {{ 1 }} b"])
@pytest.mark.parametrize("continued", [True, False])
def test_last_message_is_left_open_as_by_transformers(root: Path, name: str, content: str, continued: bool) -> None:
    ours, theirs = load(root, name)
    messages = [USER, {"role": "assistant", "content": content}]
    options = ChatOptions(add_generation_prompt=False, continue_final_message=continued)
    expected = theirs.apply_chat_template(
        messages,
        add_generation_prompt=False,
        continue_final_message=continued,
        return_dict=False,
        date_string="26 Jul 2024",
    )
    assert ours.encode(messages, options) == list(expected)


@pytest.mark.parametrize("thinking", [True, False])
def test_names_reach_the_template_as_by_transformers(root: Path, thinking: bool) -> None:
    ours, theirs = load(root, "qwen-3")
    expected = theirs.apply_chat_template(
        [USER], add_generation_prompt=True, enable_thinking=thinking, return_dict=False
    )
    assert ours.encode([USER], ChatOptions(template_kwargs={"enable_thinking": thinking})) == list(expected)


@pytest.mark.parametrize("name", TEMPLATES)
def test_prompts_have_the_tokens_transformers_gives_them(root: Path, name: str) -> None:
    ours, theirs = load(root, name)
    for text in ("hi", " hi\n", "", "hi <think> \u00e9"):
        assert ours.tokenizer.encode(text, add_special_tokens=True) == theirs.encode(text)


def pieces_of(special: list[str]) -> st.SearchStrategy[str]:
    """Text of special tokens whole, halved, nested, and of what surrounds them."""
    halves = [token[:cut] for token in special for cut in (1, 3)] + [token[cut:] for token in special for cut in (1, 3)]
    parts = st.sampled_from([*special, *halves, " ", "\n", "hi", "\u2060", "\ue000", "<0x0A>", "x"])
    return st.lists(parts, max_size=8).map("".join)


@pytest.mark.parametrize("name", ["llama-3.1", "qwen-2.5"])
@given(data=st.data())
def test_no_content_makes_a_special_token_and_all_of_it_arrives(root: Path, name: str, data: st.DataObject) -> None:
    ours, _ = load(root, name)
    special = ours.tokenizer.special_tokens
    content = data.draw(pieces_of(list(special)))
    system = {"role": "system", "content": "x"}
    ids = ours.encode([system, {"role": "user", "content": content}])
    plain = ours.encode([system, {"role": "user", "content": "hi"}])
    assert [index for index in ids if index in special.values()] == [
        index for index in plain if index in special.values()
    ]
    shown = ours.tokenizer.decode(ids, skip_special_tokens=False)
    expected = ours.tokenizer.decode(plain, skip_special_tokens=False)
    content = content.strip() if name == "llama-3.1" else content
    assert shown == re.sub("hi(?=<[|](?:eot_id|im_end))", lambda _: content, expected)


@pytest.mark.parametrize("name", ["llama-3.1", "qwen-3", "mistral", "phi-3", "yi"])
@given(data=st.data())
def test_special_text_in_content_is_encoded_as_transformers_sanitises_it(
    root: Path, name: str, data: st.DataObject
) -> None:
    """Special tokens alone are compared: `transformers` encodes such text apart from its neighbours, we with them."""
    ours, theirs = load(root, name)
    content = data.draw(pieces_of([token for token in ours.tokenizer.special_tokens if token != "<|im_end|>|>x"]))
    messages = [{"role": "user", "content": content.replace("\ue000", "")}]
    special = set(ours.tokenizer.special_tokens.values())
    expected = theirs_ids(theirs, messages, sanitize_control_tokens=True)
    assert [index for index in ours.encode(messages) if index in special] == [
        index for index in expected if index in special
    ]


def test_date_is_the_same_every_day(root: Path) -> None:
    """SmolLM3 calls `strftime_now` without asking whether there is a clock; a prompt must not change overnight."""
    ours, _ = load(root, "qwen-2.5")
    template = ChatTemplate("{{ strftime_now('%d %B %Y') }}", ours.tokenizer, {})
    ids = template.encode([USER])
    assert ours.tokenizer.decode(ids, skip_special_tokens=False) == "26 July 2024"


def test_refusals_carry_the_templates_own_words(root: Path) -> None:
    ours, _ = load(root, "mistral")
    messages: list[Mapping[str, str]] = [USER, USER]
    with pytest.raises(Exception, match="roles must alternate"):
        ours.encode(messages)
