"""Writes docs/transcript.md: ten prompts on a real pair at three thresholds, each by one `colm generate`.

python tools/transcript.py BASE.gguf ASSISTANT.gguf docs/transcript.md
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

BASE_NAME = "hf:Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
ASSISTANT_NAME = "hf:Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
THRESHOLDS = ("0.7", "0.5", "0.3")
OPTIONS = ["--chat", "--head", "confidence", "--temperature", "0", "--max-tokens", "80", "--n-ctx", "1024"]
PROMPTS = (
    "What is 17 * 23? Answer with the number.",
    "Write a Python function that returns the n-th Fibonacci number iteratively. Code only.",
    "Name three rivers in Europe.",
    "A shirt costs 20 dollars and is 15% off. What does it cost now?",
    "Translate to French: The library opens at nine.",
    "Explain in one sentence what a hash table is.",
    "Write a SQL query that counts the orders of each customer.",
    "Which planet is the largest in the solar system, and how many Earths fit into it?",
    "Tom has 3 boxes with 12 pencils each and gives away 7 pencils. How many are left?",
    "Write a haiku about autumn.",
)


def _marked(tokens: list[dict[str, object]]) -> str:
    """The text with what the assistant wrote between brackets."""
    text, source = "", "base"
    for token in tokens:
        if token["text"] and token["source"] != source:
            text += "⟦" if source == "base" else "⟧"
            source = str(token["source"])
        text += str(token["text"])
    return text + ("⟧" if source == "assistant" else "")


def main() -> None:
    base, assistant, output = sys.argv[1:]
    shown = ["colm", "generate", "PROMPT", "--base", BASE_NAME, "--assistant", ASSISTANT_NAME, *OPTIONS]
    lines = [
        "# Ten prompts on a real pair",
        "",
        "Qwen2.5-Coder 0.5B Instruct is the base and 1.5B Instruct the assistant, both Q4_K_M. The head is",
        "`confidence`: a token is deferred where one minus the base's top probability exceeds the threshold. What the",
        "assistant wrote stands between ⟦ and ⟧. No head was trained for this, and the models are small: several",
        "answers are wrong at every threshold, and a lower threshold does not always help.",
        "",
        "Each text is one run of",
        "",
        "```console",
        f"{shlex.join(shown)} --threshold ETA --trace FILE",
        "```",
        "",
        "and this page is what `python tools/transcript.py BASE.gguf ASSISTANT.gguf docs/transcript.md` made of the",
        "traces.",
    ]
    for i, prompt in enumerate(PROMPTS, 1):
        lines += ["", f"## {i}. {prompt}"]
        for threshold in THRESHOLDS:
            with tempfile.TemporaryDirectory() as folder:
                trace = Path(folder) / "trace.jsonl"
                models = ["--base", base, "--assistant", assistant]
                extra = ["--threshold", threshold, "--trace", str(trace), "--quiet"]
                command = [sys.executable, "-m", "colm_cpp.cli", "generate", prompt, *models, *OPTIONS, *extra]
                printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                _, *tokens, end = (json.loads(line) for line in trace.read_text().splitlines())
            text = "".join(str(token["text"]) for token in tokens)
            if printed.rstrip("\n") != text.rstrip("\n"):
                raise SystemExit(f"the trace of {prompt!r} does not hold the text that was printed")
            stats = end["stats"]
            lines += [
                "",
                f"**threshold {threshold}** · {stats['deferral_rate']:.0%} deferred · {stats['base_steps']} base steps,"
                f" {stats['assistant_calls']} assistant calls · ended by {end['finish_reason']}",
                "",
                "````text",
                _marked(tokens),
                "````",
            ]
            print(f"{i}/{len(PROMPTS)} at {threshold}", flush=True)
            Path(output).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
