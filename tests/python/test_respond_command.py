"""`colm score --respond`."""

from __future__ import annotations

from pathlib import Path

import answered_prompts
import commands
from answered_prompts import LOAD
from click.testing import Result
from conftest import Asked

import colm_cpp as colm
from colm_cpp.corpus.documents import Corpus
from colm_cpp.corpus.selection import select
from colm_cpp.learn.respond import FILE, respond
from colm_cpp.learn.scores import Scores

files = answered_prompts.files
pair = answered_prompts.pair
prompts = answered_prompts.prompts
head_file = answered_prompts.head_file


def test_command(pair: colm.Pair, prompts: Corpus, files: tuple[Path, Path], tmp_path: Path, asked: Asked) -> None:
    rows = tmp_path / "prompts.jsonl"
    load = [f"--{name.replace('_', '-')}={value}" for name, value in LOAD.items() if not isinstance(value, bool)]
    models = ["--base", str(files[0]), "--assistant", str(files[1]), "--no-flash-attn", *load]

    def run(*arguments: str) -> Result:
        return commands.run("score", str(rows), *models, "--respond", *arguments)

    out = tmp_path / "scores"
    result = run("-o", str(out), "--max-tokens", "12", "--temperature", "1", "--seed", "7")
    assert result.exit_code == 0, result.stderr
    # --seed draws the rows too, but all of them.
    expected = tmp_path / "expected"
    options = {"max_tokens": 12, "temperature": 1.0, "seed": 7}
    respond(pair, select([rows], seed=7, needs_completion=False), expected, options)
    assert (out / FILE).read_bytes() == (expected / FILE).read_bytes()
    scores = Scores(out)
    assert scores.meta["respond"] == options
    n = len(scores)
    assert result.stdout.startswith(f"{out}: {n} tokens of 6 texts, 2 rows ")
    warnings = [line for line in result.stderr.splitlines() if line.startswith("colm: warning: ")]
    assert {line.removeprefix(f"colm: warning: {rows}:").partition(":")[0] for line in warnings} == {"4", "6"}
    assert any(line.startswith("answering: 100%, 8 answers, ") for line in result.stderr.splitlines())

    assert set(asked.n_parallel) == {1}
    together = run(
        "-o", str(tmp_path / "together"), "--max-tokens", "12", "--temperature", "1", "--seed", "7", "--parallel", "3"
    )
    assert together.exit_code == 0, together.stderr
    assert asked.n_parallel[-1] == 3
    assert (tmp_path / "together" / FILE).read_bytes() == (expected / FILE).read_bytes()

    refused = run("-o", str(out), "--max-tokens", "13", "--temperature", "1", "--seed", "7")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "holds answers with options " in refused.stderr.splitlines()[-1]
    strict = run("-o", str(tmp_path / "strict"), "--strict", "--quiet")
    assert strict.stderr.startswith(f"colm: error: {rows}:4: ")
    assert "--strict" in strict.stderr
    assert not (tmp_path / "strict" / "meta.json").exists()  # it did not come to scoring


def test_the_command_lets_the_pair_answer(
    prompts: Corpus, files: tuple[Path, Path], head_file: Path, tmp_path: Path, asked: Asked
) -> None:
    def run(*arguments: str) -> Result:
        load = ["--n-ctx", "96", "--n-threads", "1", "--max-tokens", "4"]
        models = ["--base", str(files[0]), "--assistant", str(files[1]), "--out", str(tmp_path / "out"), *load]
        return commands.run("score", str(tmp_path / "prompts.jsonl"), *models, *arguments)

    result = run("--respond", "--head", str(head_file), "--defer-rate", "0.4")
    assert result.exit_code == 0, result.stderr
    assert {head for _, head in asked.prompts} == {str(head_file)}
    known = Scores(tmp_path / "out").meta["respond"]
    assert (known["head"], known["defer_rate"]) == ("learned.gguf", 0.4)
    for wrong, named in ((("--head", "x"), "--respond"), (("--respond", "--defer-rate", "0.4"), "--head")):
        result = run(*wrong)
        assert result.exit_code == 2
        assert named in result.stderr
