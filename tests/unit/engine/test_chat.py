"""Chat templates: rendering, refusals, and users who write special tokens."""

import json
from pathlib import Path

import pytest

from tests.unit.engine.models import CHAT_TEMPLATE, write_tiktoken, write_tokenizer_json
from worker.engine import EngineError, RowError
from worker.engine.chat import ChatTemplate, load_chat_template
from worker.engine.tokenizer import load_tokenizer
from worker.engine.types import ChatOptions


@pytest.fixture(params=[write_tiktoken, write_tokenizer_json])
def template(request: pytest.FixtureRequest, tmp_path: Path) -> ChatTemplate:
    request.param(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer is not None
    found = load_chat_template(tmp_path, tokenizer)
    assert found is not None
    return found


def with_source(folder: Path, source: str) -> ChatTemplate:
    write_tiktoken(folder)
    tokenizer = load_tokenizer(folder)
    assert tokenizer is not None
    return ChatTemplate(source, tokenizer, {"eos_token": "<|end|>"})


def test_special_tokens_of_a_user_stay_text(template: ChatTemplate) -> None:
    special = template.tokenizer.special_tokens
    for content in ("a<|end|>b", "<|end|>", "<<|end|>", "<|assistant|><|end|>"):
        ids = template.encode([{"role": "user", "content": content}])
        inner = ids[1:-2]
        assert (ids[0], ids[-2:]) == (special["<|user|>"], [special["<|end|>"], special["<|assistant|>"]])
        assert not set(inner) & set(special.values())
        assert template.tokenizer.decode(inner, skip_special_tokens=False) == content


def test_plain_messages_encode_as_rendered(template: ChatTemplate) -> None:
    ids = template.encode([{"role": "user", "content": " hi "}, {"role": "assistant", "content": "yo"}])
    text = template.tokenizer.decode(ids, skip_special_tokens=False)
    assert text == "<|user|>hi<|end|><|assistant|>yo<|end|><|assistant|>"


REFUSALS = [
    "{{ raise_exception('no system') }}",
    "{{ messages[5].content }}",
    "{{ 1 / 0 }}",
    "{{ messages.append(1) }}",
]


@pytest.mark.parametrize("source", REFUSALS)
def test_refusals_are_the_rows_fault(tmp_path: Path, source: str) -> None:
    with pytest.raises(RowError) as caught:
        with_source(tmp_path, source).encode([{"role": "user", "content": "x"}])
    assert caught.value.code == "invalid_messages"


def test_template_cannot_reach_python(tmp_path: Path) -> None:
    with pytest.raises(RowError, match="refuses"):
        with_source(tmp_path, "{{ ''.__class__.__mro__ }}").encode([{"role": "user", "content": "x"}])


def test_template_sees_token_names_and_no_tools(tmp_path: Path) -> None:
    source = "{{ tools is none and documents is none }} {{ eos_token }} {{ messages | tojson }}"
    template = with_source(tmp_path, source)
    ids = template.encode([{"role": "user", "content": "x"}])
    text = template.tokenizer.decode(ids, skip_special_tokens=False)
    assert text == 'True <|end|> [{"role": "user", "content": "x"}]'


def test_broken_template_is_an_engine_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="not valid Jinja"):
        with_source(tmp_path, "{% if %}")


def test_template_is_found_in_its_places(tmp_path: Path) -> None:
    named = [{"name": "tools", "template": ""}, {"name": "default", "template": CHAT_TEMPLATE}]
    write_tiktoken(tmp_path, chat_template=named, eos_token={"content": "<|end|>"})
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer is not None
    messages = [{"role": "user", "content": "x"}]
    listed = load_chat_template(tmp_path, tokenizer)
    (tmp_path / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    filed = load_chat_template(tmp_path, tokenizer)
    assert listed is not None
    assert filed is not None
    assert listed.encode(messages) == filed.encode(messages)
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": None}))
    assert load_chat_template(tmp_path, tokenizer) is None


def test_a_special_token_of_one_character_stays_text(tmp_path: Path) -> None:
    bytes_and_mark = write_tokenizer_json(tmp_path)
    bytes_and_mark.add_special_tokens(["\u4e2d"])
    bytes_and_mark.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer is not None
    template = ChatTemplate("{{ messages[0].content }}\u4e2d", tokenizer, {})
    ids = template.encode([{"role": "user", "content": "\u4e2d"}])
    assert ids == [*tokenizer.encode("\u4e2d", add_special_tokens=False), tokenizer.special_tokens["\u4e2d"]]


def test_content_is_left_as_it_is(tmp_path: Path) -> None:
    """Word joiners within what looked like a guarded token were once taken out of the user's text."""
    write_tokenizer_json(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer is not None
    content = "<\N{WORD JOINER}|end|> \ue000 <|end|>"
    ids = ChatTemplate("{{ messages[0].content }}", tokenizer, {}).encode([{"role": "user", "content": content}])
    assert tokenizer.decode(ids, skip_special_tokens=False) == content


def test_messages_that_leave_no_character_for_the_guard_are_refused(template: ChatTemplate) -> None:
    content = "".join(map(chr, range(0xE000, 0xF900)))
    with pytest.raises(RowError, match="every private use character"):
        template.encode([{"role": "user", "content": content}])


NAMED = "{{ who }}{% for key, value in more.items() %}{{ key }}{{ value[0] }}{% endfor %}{{ eos_token }}"


def test_special_tokens_in_a_templates_names_stay_text(tmp_path: Path) -> None:
    template = with_source(tmp_path, NAMED)
    names = {"who": "a<|end|>", "more": {"<|end|>": ["<|user|>"]}}
    ids = template.encode([{"role": "user", "content": "x"}], ChatOptions(template_kwargs=names))
    special = template.tokenizer.special_tokens
    assert [token_id for token_id in ids if token_id in special.values()] == [special["<|end|>"]]
    text = template.tokenizer.decode(ids, skip_special_tokens=False)
    assert text == "a<|end|><|end|><|user|><|end|>"


def nested(depth: int) -> object:
    return [nested(depth - 1)] if depth else "x"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ChatOptions(continue_final_message=True), "continue_final_message needs add_generation_prompt to be false"),
        (ChatOptions(template_kwargs={"messages": []}), "may not hold 'messages'"),
        (ChatOptions(template_kwargs={"chat_template": "{{ 1 }}"}), "may not hold 'chat_template'"),
        (ChatOptions(template_kwargs={"eos_token": "x"}), "may not hold 'eos_token'"),
        (ChatOptions(template_kwargs={"a-b": "x"}), "may not hold 'a-b'"),
        (ChatOptions(template_kwargs={"a": nested(500)}), "nested at most 8 deep"),
        (ChatOptions(template_kwargs={"a": ["\ud800"]}), "not valid Unicode"),
    ],
)
def test_options_that_are_not_a_requests_to_give_are_refused(
    tmp_path: Path, options: ChatOptions, message: str
) -> None:
    with pytest.raises(RowError, match=message):
        with_source(tmp_path, NAMED).encode([{"role": "user", "content": "x"}], options)


def test_a_message_the_template_does_not_show_cannot_be_continued(tmp_path: Path) -> None:
    options = ChatOptions(add_generation_prompt=False, continue_final_message=True)
    with pytest.raises(RowError, match="nothing can be continued"):
        with_source(tmp_path, "{{ messages[0].role }}").encode([{"role": "user", "content": "x"}], options)
