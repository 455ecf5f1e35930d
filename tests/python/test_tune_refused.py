"""What tuning refuses: other models, scores that lack something, options out of range."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tuned_pairs
from tuned_pairs import QUICK, scored

from colm_cpp import tune
from colm_cpp.errors import CorpusError, LoadError, OptionError

pair = tuned_pairs.pair


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]


def test_another_model_behind_the_scores_is_refused(pair: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"assistant\.gguf"):
        tune.tune(pair.assistant, [pair.scores], tmp_path / "out", QUICK)


def test_a_torch_model_that_differs_from_llama_cpp_is_refused(
    pair: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from colm_cpp.tune import tuning

    load = tuning.load_base

    def wrong(*args: Any) -> Any:
        model = load(*args)
        weight = model.model.layers[0].self_attn.q_proj.weight
        weight.data = weight.data.flip(0)  # the rows in another order, as a wrong permutation leaves them
        return model

    monkeypatch.setattr(tuning, "load_base", wrong)
    with pytest.raises(LoadError, match="nats a token"):
        tune.tune(pair.base, [pair.scores], tmp_path / "out", QUICK)


def test_an_unsupported_architecture_is_refused_by_name(tmp_path: Path) -> None:
    pair = scored(tmp_path, "mamba")
    with pytest.raises(LoadError, match="mamba"):
        tune.tune(pair.base, [pair.scores], tmp_path / "out", QUICK)


def test_scores_of_an_earlier_version_lack_tokens(pair: SimpleNamespace, tmp_path: Path) -> None:
    folder = tmp_path / "scores"
    shutil.copytree(pair.scores, folder)
    lines = [json.loads(line) for line in (folder / "texts.jsonl").read_text().splitlines()]
    for line in lines:
        del line["tokens"], line["scored"]
    (folder / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(CorpusError, match="again"):
        tune.tune(pair.base, [folder], tmp_path / "out", QUICK)


@pytest.mark.parametrize(
    "wrong",
    [{"rank": 0}, {"learning_rate": float("nan")}, {"held_out": 1.0}, {"objective": "x"}, {"objective": "regret"}],
)
def test_options_outside_their_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="cost" if wrong == {"objective": "regret"} else next(iter(wrong))):
        tune.TuneOptions(**wrong)
