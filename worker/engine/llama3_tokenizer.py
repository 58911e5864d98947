"""Llama 3's own tokenizer.model: a tiktoken rank file without a configuration, as Meta's folders hold it."""

from pathlib import Path

from worker.engine.tiktoken_tokenizer import TiktokenTokenizer, make_encoding, read_ranks

# Source of the pattern and of the special tokens' order: tokenizer.py of github.com/meta-llama/llama3; the names are
# those of Llama 3.1 (its Hugging Face folders), which gave reserved tokens of Llama 3 a meaning and moved none.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_NUM_SPECIAL = 256
_NAMED = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    4: "<|finetune_right_pad_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}
_STOPS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")  # as generation_config.json of Llama 3.1 lists them
_CHAT_TEMPLATE = (
    "<|begin_of_text|>{% for message in messages %}"
    "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def load_llama3(path: Path) -> TiktokenTokenizer:
    """Load a rank file as Llama 3's: the special tokens follow the ranks (128000 of them in Meta's file)."""
    ranks = read_ranks(path)
    special = {name: len(ranks) + index for index, name in enumerate(special_token_names())}
    return TiktokenTokenizer(
        make_encoding(path, ranks, _PATTERN, special),
        bos_token_id=special["<|begin_of_text|>"],
        stop_token_ids=tuple(special[name] for name in _STOPS),
        chat_template=_CHAT_TEMPLATE,
    )


def special_token_names() -> list[str]:
    """The 256 special tokens in the order of their ids: those without a name are numbered among themselves."""
    names = []
    num_reserved = 0
    for index in range(_NUM_SPECIAL):
        name = _NAMED.get(index)
        if name is None:
            name = f"<|reserved_special_token_{num_reserved}|>"
            num_reserved += 1
        names.append(name)
    return names
