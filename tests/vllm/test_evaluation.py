# SPDX-License-Identifier: Apache-2.0
"""`trl-concise eval --use_vllm` measures what it measures with transformers."""

from __future__ import annotations

import json

import pytest

from tests.vllm.engine import CACHE_BYTES
from trl_concise import demo
from trl_concise.evaluation import ThinkingBudgets, evaluate, read_completions
from trl_concise.evaluation.command import main as eval_command
from trl_concise.evaluation.filter import main as filter_command
from trl_concise.evaluation.sampling import SamplingSettings, load_sampler, tokenize_prompts
from trl_concise.evaluation.thinking_budget import describe_origin, read_budgeted


# Only on a CPU: a seeded request that chunked prefill splits ends the engine.
OPTIONS = {"kv_cache_memory_bytes": CACHE_BYTES, "enforce_eager": True, "enable_chunked_prefill": False}


def test_both_engines_in_the_checkpoints_dtype(embedded, tmp_path):
    problems = {"sums": demo.train_dataset(32)}
    settings = {"max_new_tokens": 96, "temperature": 0.0, "progress": False}
    with_transformers = evaluate("demo", problems, tmp_path / "transformers", **settings)[0]
    with_vllm = evaluate("demo", problems, tmp_path / "vllm", use_vllm=True, engine_options=OPTIONS, **settings)[0]
    assert with_vllm["accuracy"] == pytest.approx(with_transformers["accuracy"], abs=1 / 32)
    assert with_vllm["tokens_mean"] == pytest.approx(with_transformers["tokens_mean"], abs=2)
    written = [json.loads((tmp_path / name / "settings.json").read_text()) for name in ("transformers", "vllm")]
    assert [(one["engine"], one["dtype"]) for one in written] == [("transformers", "float32"), ("vllm", "float32")]
    with pytest.raises(ValueError, match="engine"):
        evaluate("demo", problems, tmp_path / "transformers", use_vllm=True, engine_options=OPTIONS, **settings)


def test_sampled_completions_are_seeded(embedded):
    sampler = load_sampler(embedded, use_vllm=True, max_model_len=512, **OPTIONS)
    prompts = tokenize_prompts(sampler.tokenizer, [row["prompt"] for row in demo.train_dataset(4)])
    first, again, other = (sampler.sample(prompts, SamplingSettings(64, 1.0, 1.0, seed)) for seed in (0, 0, 100))
    assert first == again != other


def test_votes_are_weighted_alike(embedded):
    """The probability of a likely next token, which weights a vote, is the same with both engines; an unlikely one counts as 0."""
    whole = load_sampler(embedded)
    tokenizer = whole.tokenizer
    prompts = tokenize_prompts(tokenizer, [row["prompt"] for row in demo.train_dataset(4)])
    likely = [whole.sample([prompt], SamplingSettings(1, 0.0))[0] for prompt in prompts]
    sampler = load_sampler(embedded, use_vllm=True, max_model_len=512, **OPTIONS)
    for prompt, token_ids in zip(prompts, likely, strict=True):
        expected = whole.next_token_probabilities([prompt], token_ids)
        assert expected[0] > 1 / 50 and sampler.next_token_probabilities([prompt], token_ids) == pytest.approx(
            expected, abs=1e-3
        )
    (rare,) = sampler.next_token_probabilities(prompts[:1], [tokenizer.convert_tokens_to_ids("~")])
    assert rare == 0.0


def test_tokens_are_scored_alike(embedded):
    """The likelihoods are the same with both engines; vLLM's entropies are lower bounds from the 20 most likely tokens."""
    exact = load_sampler(embedded)
    prompts = tokenize_prompts(exact.tokenizer, [row["prompt"] for row in demo.train_dataset(4)])
    completions = exact.sample(prompts, SamplingSettings(48, 1.0, 1.0))
    expected = exact.score_tokens(prompts, completions)
    found = load_sampler(embedded, use_vllm=True, max_model_len=512, **OPTIONS).score_tokens(prompts, completions)
    for own, other in zip(found, expected, strict=True):
        assert own.nlls == pytest.approx(other.nlls, abs=1e-3) and other.masses is None
        assert len(own.entropies) == len(other.entropies) == len(own.masses)
        for low, entropy, mass in zip(own.entropies, other.entropies, own.masses, strict=True):
            assert low <= entropy + 1e-3 and 0.5 < mass <= 1
            if mass > 0.9999:
                assert low == pytest.approx(entropy, abs=5e-3)


def test_both_engines_write_the_same_in_chunks(tmp_path):
    command = ["demo", "demo", "--limit", "16", "--temperature", "0", "--max_new_tokens", "96", "--chunk_size", "32"]
    found = []
    for engine, options in {"transformers": [], "vllm": ["--use_vllm", "--gpu_memory_utilization", "0.2"]}.items():
        folder = tmp_path / engine
        assert eval_command([*command, "--keep_head", "4", "--output_dir", str(folder), *options]) == 0
        found.append(
            [
                (item.problem, item.completion_ids, item.correct)
                for item in read_completions(folder / "completions.jsonl")
            ]
        )
    assert found[0] == found[1] and max(len(ids) for _, ids, _ in found[0]) > 32


def test_thinking_budgets(tmp_path, capsys):
    """Both engines stop the same thoughts, and give the same greedy answers after them."""
    how = ThinkingBudgets((0, 20, 40), closing="\n</think>\n", answer_tokens=8)
    command = ["demo", "demo", "--limit", "24", "--temperature", "0", "--max_new_tokens", "96"]
    command += ["--thinking_budget", "0,20,40", "--thinking_close", how.closing, "--answer_tokens", "8"]
    found = {}
    for engine, options in {
        "transformers": [],
        "vllm": ["--use_vllm", "--gpu_memory_utilization", "0.2"],  # the context is computed
    }.items():
        folder = tmp_path / engine
        assert eval_command([*command, "--output_dir", str(folder), *options]) == 0
        assert "thinking stopped at 20" in capsys.readouterr().out
        evaluated = json.loads((folder / "settings.json").read_text())
        found[engine] = read_budgeted(folder, describe_origin(how, evaluated))
    ours, theirs = found.values()
    assert ours == theirs and list(ours) == [("demo", budget) for budget in how.budgets]
    stopped = [item for items in ours.values() for item in items if item.outcome == "stopped"]
    assert len(stopped) >= 48 and any(item.completion.correct for item in stopped)


def test_filter(embedded, tmp_path, capsys):
    """The command keeps the problems of the band, and a second band needs no new completions."""
    output = tmp_path / "some.jsonl"
    arguments = [
        "demo",
        "--model",
        "demo",
        "--output",
        str(output),
        "-n",
        "4",
        "--limit",
        "12",
        "--max_new_tokens",
        "96",
    ]
    arguments += ["--use_vllm", "--max_model_len", "512", "--gpu_memory_utilization", "0.2"]
    assert filter_command([*arguments, "--keep", "0", "1"]) == 0
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 12 and all(0 <= row["pass_rate"] <= 1 and 0 < row["tokens_mean"] <= 96 for row in rows)
    completions = tmp_path / "some_completions" / "completions.jsonl"
    drawn = completions.read_text(encoding="utf-8")
    rates = {row["pass_rate"] for row in rows}
    low = max(rates)
    assert filter_command([*arguments, "--keep", str(low), "1"]) == 0
    kept = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert kept == [row for row in rows if row["pass_rate"] >= low]
    assert completions.read_text(encoding="utf-8") == drawn
    assert f"{len(kept)} kept" in capsys.readouterr().out
