"""Chat templates: rendering, overriding, and what reaches the models."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import CHATML, Vocab, make_model

import colm_cpp as colm
from colm_cpp.chat.messages import render_chat

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <b>&</b>"}]
RENDERED = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <b>&</b><|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> colm.Pair:
    folder = tmp_path_factory.mktemp("chat")
    base = make_model(folder / "base.gguf", seed=1, chat_template=CHATML)
    assistant = make_model(folder / "assistant.gguf", seed=2)
    return colm.load(base, assistant, "confidence", n_threads=1)


def test_template_of_the_file(pair: colm.Pair) -> None:
    assert pair.render_chat(MESSAGES) == RENDERED


def test_control_tokens_are_recognised(pair: colm.Pair) -> None:
    stream = pair.stream_chat(MESSAGES, max_tokens=1, seed=1)
    stream.completion()
    start = pair.tokenize("<|im_start|>", add_special=False)
    assert len(start) == 1
    assert stream.token_ids[0] == start[0]
    assert stream.token_ids.count(start[0]) >= 3  # system, user, assistant


def test_chat_equals_generate_on_the_rendered_prompt(pair: colm.Pair) -> None:
    options = {"max_tokens": 12, "seed": 3, "temperature": 0.7}
    chat = pair.chat(MESSAGES, **options)
    plain = pair.generate(RENDERED, **options)
    assert [token.id for token in chat.tokens] == [token.id for token in plain.tokens]


def test_temperature_defaults_to_that_of_llama_cpp_chat(pair: colm.Pair) -> None:
    by_default = pair.chat(MESSAGES, max_tokens=20, seed=3)
    assert by_default.text == pair.chat(MESSAGES, max_tokens=20, seed=3, temperature=0.2).text
    assert by_default.text != pair.chat(MESSAGES, max_tokens=20, seed=3, temperature=3.0).text


def test_override_and_variables(pair: colm.Pair) -> None:
    template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ mark }}{% endfor %}"
    rendered = pair.render_chat(MESSAGES, chat_template=template, template_variables={"mark": "!"})
    assert rendered == "[system] Be brief.![user] Hi <b>&</b>!"


def test_bos_is_not_doubled(tmp_path: Path) -> None:
    vocab = Vocab(add_bos=True)
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    base = make_model(tmp_path / "base.gguf", seed=1, vocab=vocab, chat_template=template)
    assistant = make_model(tmp_path / "assistant.gguf", seed=2, vocab=vocab)
    with colm.load(base, assistant, "confidence", n_threads=1) as pair:
        bos = pair.tokenize("a")[0]
        assert pair.tokenize("a", add_special=False)[0] != bos
        for with_bos in (template, template.replace("{{ bos_token }}", "")):
            stream = pair.stream_chat(MESSAGES, chat_template=with_bos, max_tokens=0)
            stream.completion()
            assert stream.token_ids[0] == bos
            assert stream.token_ids.count(bos) == 1


def test_conversation_rereads_only_what_is_new(pair: colm.Pair) -> None:
    first = pair.stream_chat(MESSAGES, max_tokens=6, temperature=0, threshold=0.0)
    n_first = len(first.token_ids)
    first.completion()
    # The prompt grows at its end, so both models keep all of the first prompt.
    longer = RENDERED + "and now something else entirely"
    second = pair.stream(longer, max_tokens=1, temperature=0, threshold=0.0)
    n_second = len(second.token_ids)
    stats = second.completion().stats
    assert stats.base_tokens_read <= n_second - n_first + 1
    assert stats.assistant_tokens_read <= n_second - n_first + 1


def test_no_template(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base.gguf", seed=1)
    assistant = make_model(tmp_path / "assistant.gguf", seed=2)
    with (
        colm.load(base, assistant, "confidence", n_threads=1) as pair,
        pytest.raises(colm.ChatTemplateError, match="chat template"),
    ):
        pair.chat(MESSAGES)


def test_templates_of_hugging_face_features() -> None:
    template = (
        "{%- for m in messages %}\n"
        "{%- if loop.index0 == 1 %}{% break %}{% endif %}\n"
        "{{- m.content | trim }} {{ m | tojson }} {{ strftime_now('%Y')|length }}\n"
        "{%- endfor %}"
    )
    rendered = render_chat([{"role": "user", "content": " <é> "}, {"role": "user", "content": "x"}], template)
    assert rendered == '<é> {"role": "user", "content": " <é> "} 4'


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('no system messages') }}",
        "{% for %}",
        "{{ messages[0]['content'] + 1 }}",
    ],
)
def test_refused(template: str) -> None:
    with pytest.raises(colm.ChatTemplateError):
        render_chat([{"role": "user", "content": "x"}], template)
