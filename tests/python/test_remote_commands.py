"""Commands and the server with an expert on another machine: they do what they do with the model here, or refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import far_server
import pytest
from commands import ONE_THREAD, error_of, run
from conftest import ASSISTANT, TINY_LOAD, TinyModels
from evaluations import make_task, write_lines
from far_server import FAR_BASE, FarServer
from tiny_models import CHATML

pytest.importorskip("httpx")

import test_remote_texts
from remote_lookalikes import LookAlike
from test_remote_texts import OfModel

import colm_cpp as colm
from colm_cpp import Head
from colm_cpp.cli._chat_commands import Chat
from colm_cpp.cli._conversation import Conversation
from colm_cpp.errors import OptionError
from colm_cpp.evaluate.bench import run_bench
from colm_cpp.learn import RecordFolder
from colm_cpp.sources.identity import model_identity
from colm_cpp.tune.pair_folder import models_of

F32 = ("--n-ctx", "256", "--type-k", "f32", "--type-v", "f32", "--no-flash-attn", *ONE_THREAD)


far = far_server.far


@pytest.fixture(scope="module")
def here(tiny_model: TinyModels) -> list[str]:
    return ["--base", str(tiny_model(**FAR_BASE)), "--assistant", str(tiny_model(**ASSISTANT))]


@pytest.fixture(scope="module")
def there(tiny_model: TinyModels, far: FarServer) -> list[str]:
    return ["--base", str(tiny_model(**FAR_BASE)), "--assistant", far.url]


model = test_remote_texts.model


@pytest.fixture(params=["openai", "sglang", "colm", "llama-server"])
def server(request: pytest.FixtureRequest, model: OfModel) -> Iterator[LookAlike]:
    with LookAlike(request.param, words=model, model=model, n_ctx=256) as server:
        yield server


SOME = ["openai", "colm", *(pytest.param(other, marks=pytest.mark.slow) for other in ("sglang", "llama-server"))]


def test_what_is_not_known_of_it_is_none(server: LookAlike, tiny_model: TinyModels) -> None:
    """And nothing is the base's that need not be."""
    with colm.load(tiny_model(**FAR_BASE), server.url, "always", **TINY_LOAD) as pair:
        facts = pair.assistant
        assert set(pair.base) < set(facts)
        for name in ("n_embd", "n_batch", "n_ubatch", "n_ctx_train", "can_rewind"):
            assert (name, facts[name]) == (name, None)
        assert facts["n_vocab"] == (None if server.protocol in ("openai", "sglang") else server.words.n_ids)
        assert facts["n_vocab"] != pair.base["n_vocab"]
        assert facts["adapters"] == []
        with pair.stream_batch(["The river", "A"], max_tokens=4, temperature=0.0) as stream:
            assert len(list(stream)) == 2
            assert (stream.counts["base_decodes"], stream.counts["assistant_decodes"]) == (0, 2 * 4)


@pytest.mark.parametrize("server", ["openai", pytest.param("colm", marks=pytest.mark.slow), *SOME[2:]], indirect=True)
def test_calibrate(server: LookAlike, here: list[str], tmp_path: Path) -> None:
    prompts = write_lines(tmp_path / "prompts.jsonl", [{"prompt": text} for text in ("The river", "A city", "Tom")])
    measured = []
    for number, models in enumerate((here, [*here[:3], server.url])):
        out = tmp_path / f"{number}.gguf"
        done = run("calibrate", "confidence", prompts, *models, *F32, "--max-tokens", "12", "--temperature", "0",
                   "--out", out, "--json", "-q")  # fmt: skip
        assert done.exit_code == 0, done.stderr
        measured.append(json.loads(done.stdout)["measurements"])
    assert measured[0] == measured[1]
    head = Head.load(out)
    known = json.loads(head.calibration or "")
    assert known["assistant_model"]["url"] in server.url
    assert head.assistant_name == known["assistant"]


@pytest.mark.parametrize("server", SOME, indirect=True)
def test_inspect(server: LookAlike, here: list[str], tmp_path: Path) -> None:
    models = [*here[:3], server.url]
    done = run("inspect", *models, "--head", "confidence", "--json")
    assert done.exit_code == 0, done.stderr
    facts = json.loads(done.stdout)
    assert [file["type"] for file in facts["files"]] == ["model"]
    assert facts["pair"]["compatible"]
    assert facts["pair"]["assistant_model"]["protocol"] == server.protocol
    done = run("inspect", *models)
    assert done.exit_code == 0, done.stderr
    assert server.address in done.stdout
    server.words = type(server.words)(server.words._pair)
    server.words.fingerprint, server.words.tokenize = "another", lambda text: [1]
    done = run("inspect", *models)
    assert done.exit_code == 1
    assert "another vocabulary" in done.stderr
    assert "not compatible" in done.stdout


def test_evaluate(here: list[str], there: list[str], far: FarServer, tmp_path: Path) -> None:
    task = Path(make_task(tmp_path / "task.jsonl").path)
    head = tmp_path / "head.gguf"
    Head.confidence(32, rates=(0.0, 0.5, 1.0), thresholds=(1.0, 0.6, 0.0)).save(head)
    other = tmp_path / "other.toml"
    other.write_text(f'version = 1\nbase = "{here[1]}"\nassistant = "{far.url}"\nhead = "{head}"\n')
    given = [*F32, "--head", f"mine={head}", "--rate", "0.5", "--max-tokens", "8", "--temperature", "0", "-q"]
    arms = ["--arm", "base", "--arm", "assistant", "--arm", "random", "--arm", f"other={other}"]
    answers = []
    for name, models in (("here", here), ("there", there)):
        command = ["evaluate", task, *models, *given, *arms, "-o", tmp_path / name]
        done = run(*command)
        assert done.exit_code == 0, done.stderr
        folder = RecordFolder.open(tmp_path / name)
        answers.append({arm: [r.ids for r in folder.read(arm).values()] for arm in folder.meta["arms"]})
        assert ("steps" in folder.meta) == (name == "here")
        n_asked = len(far.requests)
        assert run(*command).exit_code == 0
        assert len(far.requests) == n_asked  # all is there
    assert answers[0] == answers[1]
    assert answers[0]["other@50"] == answers[0]["mine@50"]
    report = (tmp_path / "there" / "report.md").read_text()
    assert far.url in report
    assert folder.meta["assistant_model"] == {"url": far.url, "name": f"'far' at {far.url}", "top_k": 64}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--strategy", "compose", "--head", "mine=HEAD", "--rate", "0.5"], "every token"),
        (["--arm", "x=URL"], "the model's own file"),
        (["--arm", "x=assistant:PAIR"], "the model's own file"),
    ],
)
def test_evaluate_refuses(there: list[str], far: FarServer, tmp_path: Path, more: list[str], says: str) -> None:
    pair = tmp_path / "pair.toml"
    pair.write_text(f'version = 1\nbase = "{there[1]}"\nassistant = "{far.url}"\nhead = "confidence"\n')
    head = tmp_path / "head.gguf"
    Head.confidence(32, rates=(0.0, 0.5, 1.0), thresholds=(1.0, 0.6, 0.0)).save(head)
    more = [one.replace("URL", far.url).replace("PAIR", str(pair)).replace("HEAD", str(head)) for one in more]
    task = make_task(tmp_path / "task.jsonl").path
    n_asked = len(far.requests)
    done = run("evaluate", task, *there, *F32, *more, "-o", tmp_path / "out", "-q")
    assert says in error_of(done)
    assert len(far.requests) == n_asked
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["bench"],
        ["score", "FILE", "-o", "OUT"],
        ["score", "FILE", "-o", "OUT", "--respond"],
        ["paths", "FOLDER"],
        ["generate", "x", "--session", "OUT", "--head", "always"],
    ],
    ids=" ".join,
)
def test_what_needs_the_model_is_refused_before_anything_is_asked(
    there: list[str], far: FarServer, tmp_path: Path, command: list[str]
) -> None:
    file = write_lines(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b"}])
    places = {"FILE": str(file), "OUT": str(tmp_path / "out"), "FOLDER": str(tmp_path)}
    far.paths.clear()
    done = run(*(places.get(word, word) for word in command), *there, *F32)
    what = "--session" if "--session" in command else f"colm {command[0]}"
    assert f"a model on another machine, and {what} needs the model's own file" in error_of(done)
    assert far.paths == []
    assert not (tmp_path / "out").exists()


def test_what_needs_the_model_is_refused_in_python(tiny_model: TinyModels, far: FarServer, tmp_path: Path) -> None:
    with colm.load(tiny_model(**FAR_BASE), far.url, "random", **TINY_LOAD) as pair:
        n_asked = len(far.requests)
        with pytest.raises(OptionError, match="another machine"):
            run_bench(pair, n_tokens=4, rounds=1)
        assert len(far.requests) == n_asked
    base = tiny_model(**FAR_BASE)
    scores: Any = SimpleNamespace(path=tmp_path, meta={"base_model": model_identity(base), "assistant_model": {}})
    with pytest.raises(OptionError, match="another machine"):
        models_of(None, base, far.url, [scores], tmp_path)


def test_traces_and_patterns(here: list[str], there: list[str], far: FarServer, tmp_path: Path) -> None:
    written = []
    for name, models in (("here", here), ("there", there)):
        trace, page = tmp_path / f"{name}.jsonl", tmp_path / f"{name}.html"
        done = run("generate", "The river", *models, *F32, "--head", "random", "--threshold", "0.5", "--seed", "1",
                   "--temperature", "0", "--max-tokens", "20", "--trace", trace, "--json", "-q")  # fmt: skip
        assert done.exit_code == 0, done.stderr
        written.append([(token["id"], token["source"]) for token in json.loads(done.stdout)["tokens"]])
        done = run("patterns", trace, "--html", page)
        assert done.exit_code == 0, done.stderr
    assert written[0] == written[1]
    assert json.loads((tmp_path / "there.jsonl").read_text().split("\n")[0])["assistant"] == far.url


def test_models_are_listed_and_checked(
    there: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, far: FarServer
) -> None:
    file = tmp_path / "afar.toml"
    file.write_text(f'version = 1\nbase = "{there[1]}"\nassistant = "{far.url}"\n')
    monkeypatch.setattr("colm_cpp.sources.preset.preset_files", lambda: {"afar": file})  # the hub is not asked
    far.paths.clear()
    done = run("models", "--check", "--json", "--dir", tmp_path)
    assert done.exit_code == 0, done.stderr
    (pair,) = json.loads(done.stdout)["pairs"]
    assert pair["models"] == [{"file": there[1]}, {"url": far.url}]
    assert far.paths == []


def test_a_conversation_is_saved_without_what_was_read(
    tiny_model: TinyModels, far: FarServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "chat.json"
    with colm.load(tiny_model(**FAR_BASE, chat_template=CHATML), far.url, "random", **TINY_LOAD) as pair:
        chat = Chat(Conversation(pair, {"temperature": 0.0, "max_tokens": 4}), color="never", quiet=False, stops=False)
        chat.take("Hello")
        chat.take(f"/save {file}")
        assert list(tmp_path.iterdir()) == [file]
        (tmp_path / "chat.json.session").write_bytes(b"of another pair")
        kept = list(chat.conversation.exchanges)
        chat.take("/clear")
        chat.take(f"/load {file}")
        assert chat.conversation.exchanges == kept
        assert "another machine" in capfd.readouterr().err


def test_the_server(tiny_model: TinyModels, far: FarServer) -> None:
    """It serves such a pair, its expert alone, and the expert's distributions; what reads prompts needs the file."""
    httpx = pytest.importorskip("httpx")
    for package in ("fastapi", "prometheus_client"):
        pytest.importorskip(package)
    from server_world import running, served

    from colm_cpp.server.registry import Registry
    from colm_cpp.sources.pair_file import Preset

    base = str(tiny_model(**FAR_BASE))
    pair = Preset("afar", base, far.url, "random")
    body = {"prompt": "The river", "max_tokens": 12, "temperature": 0, "seed": 3}
    with (
        running(Registry([served("afar", pair, **TINY_LOAD)])) as world,
        httpx.Client(base_url=world.address, timeout=60) as client,
        colm.load(base, far.url, "random", **TINY_LOAD) as local,
    ):
        for model, head in (("afar", "random"), ("afar:assistant", "always"), ("afar:base", "never")):
            answer = client.post("/v1/completions", json={"model": model, **body})
            assert answer.status_code == 200, answer.text
            written = local.generate("The river", head=head, max_tokens=12, temperature=0.0, seed=3)
            assert answer.json()["choices"][0]["text"] == written.text
        ask = {"model": "afar:assistant", "tokens": local.tokenize("The river"), "top_k": 5}
        found = client.post("/v1/colm/distributions", json=ask, headers={"Accept": "application/json"}).json()
        assert found["positions"][0]["ids"] == [entry["id"] for entry in far.top(ask["tokens"], 5)]
        assert client.get("/v1/colm/distributions", params={"model": "afar:assistant"}).json()["n_ctx"] == 256
        assert client.get("/tokenizer_info").json()["vocab_size"] == local.n_shared
        answer = client.post("/v1/completions", json={"model": "afar", **body, "echo": True, "logprobs": 1})
        assert answer.status_code == 400
        assert "another machine" in answer.json()["error"]["message"]
