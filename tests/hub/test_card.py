# SPDX-License-Identifier: Apache-2.0
"""The model card: what was measured is in it, what is private is not, and the Hub takes it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from peft import LoraConfig

from tests import tiny
from tests.hub_server import card_errors, eval_result_errors
from trl_concise import HAPOConfig, HAPOTrainer, LASERDConfig, LASERDTrainer
from trl_concise.evaluation.report import report
from trl_concise.evaluation.runs import FACTS_FILE, read_facts
from trl_concise.hub.card import write_card


FACTS = {
    "format": 1,
    "model_name": "qwen-hapo",
    "repo_id": "user/qwen-hapo",
    "base_model": "Qwen/Qwen2.5-1.5B-Instruct",
    "datasets": ["openai/gsm8k"],
    "adapter": False,
    "tags": ["grpo", "hapo", "trl", "trl-concise"],
    "trainer": "HAPO",
    "methods": [{"name": "HAPO", "title": "History-Aware", "id": "2505.11225", "settings": {"floor": -0.5}}],
    "settings": {"learning_rate": 1e-6, "num_generations": 8},
    "citations": ["@article{huang2025hapo}"],
    "history": {"prompts": 2000, "solved": 1800, "visits": 10000, "shortest_median": 212.0},
    "steps": 625,
    "seconds": 5400.0,
    "hardware": "1 x NVIDIA A100-SXM4-40GB",
    "peak_memory": {"bytes": 30 * 2**30, "of": "GPU"},
    "versions": {"trl-concise": "0.1.0", "trl": "1.16.0"},
    "max_completion_length": 4096,
}


GSM8K = {"dataset_id": "openai/gsm8k", "dataset_config": "main", "dataset_split": "test"}
MATH500 = {"dataset_id": "HuggingFaceH4/MATH-500", "dataset_config": None, "dataset_split": "test"}


def record(model: str, accuracy: float, tokens: float, budget: int | None = None, **changes) -> dict:
    return {
        "dataset": "openai/gsm8k",
        **GSM8K,
        "problems": 1319,
        "completions_per_problem": 4,
        "accuracy": accuracy,
        "accuracy_interval": [accuracy - 0.02, accuracy + 0.02],
        "pass_at_k": {"1": accuracy},
        "tokens_mean": tokens,
        "tokens_interval": [tokens - 5, tokens + 5],
        "tokens_correct_mean": tokens,
        "tokens_wrong_mean": tokens,
        "truncated_fraction": 0.01,
        "empty_fraction": 0.002,
        "budget": budget,
        "model": model,
        "seed": 0,
        "temperature": 0.7,
        "top_p": 1.0,
        "max_new_tokens": 2048,
        "system_prompt_sha256": None,
        "limit": None,
        **changes,
    }


def a_run(folder: Path, **changes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / FACTS_FILE).write_text(json.dumps({**FACTS, **changes}))
    return folder


def test_results_are_listed_with_their_base_and_controls(tmp_path):
    run = a_run(tmp_path)
    base = "Qwen/Qwen2.5-1.5B-Instruct"
    records = [record(base, 0.7, 300.0), record(base, 0.5, 150.0, budget=160), record("user/qwen-hapo", 0.72, 150.0)]
    (run / "summary.json").write_text(json.dumps(records))
    card = ModelCard.load(write_card(run))
    assert "> **150.0 tokens per completion instead of 300.0 (−50%), accuracy 72.0% instead of 70.0%**" in card.text
    rows = [line for line in card.text.splitlines() if line.startswith(("| base", "| **this"))]
    assert rows == [
        "| base model | 70.0% [68.0–72.0] | 300.0 [295.0–305.0] |  |  |",
        "| **this model** | **72.0%** [70.0–74.0] | **150.0** [145.0–155.0] | 50% | +0.59 |",
        "| base model, truncated at 160 tokens | 50.0% [48.0–52.0] | 150.0 [145.0–155.0] | 50% | −0.93 |",
    ]
    assert "Recommended `max_new_tokens`: **2048**" in card.text
    assert "Truncated: 1.0% of completions" in card.text and "Empty: 0.2% of completions" in card.text
    metrics = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert metrics == {"accuracy": 0.72, "mean_response_tokens": 150.0}
    assert card.data.base_model == base and card.data.datasets == ["openai/gsm8k"]
    assert card_errors(str(card)) == []
    (results,) = (run / ".eval_results").glob("*.yaml")
    assert eval_result_errors(results.read_text()) == []
    (entry,) = yaml.safe_load(results.read_text())
    assert (entry["dataset"]["id"], entry["value"]) == ("openai/gsm8k", 72.0)
    assert "1,319 problems, 4 completions per problem, truncated at 2,048 tokens" in entry["notes"]


def test_a_base_that_solves_hardly_anything_gives_no_score(tmp_path):
    run, base = a_run(tmp_path / "my-run"), "Qwen/Qwen2.5-1.5B-Instruct"
    records = [record(base, 0.09, 300.0), record("my-run", 0.02, 150.0)]
    (run / "summary.json").write_text(json.dumps(records))
    card, plotted = write_card(run).read_text(), report([run], tmp_path / "plots")["report.md"].read_text()
    assert "| **150.0** [145.0–155.0] | 50% |  |" in card and "AES" not in card.partition("AES |\n")[2]
    assert re.search(r"my-run.* \| 50.0% \|  \|", plotted)


def test_the_card_names_the_harder_set_and_the_comparison_that_is_missing(tmp_path):
    run, base = a_run(tmp_path / "my-run"), "Qwen/Qwen2.5-1.5B-Instruct"
    easy, hard = ({"dataset": name, "dataset_id": None} for name in ("svamp", "gsm8k"))
    records = [record(base, 0.43, 219.0, **easy), record("my-run", 0.46, 31.0, **easy)]
    missing = "No control was evaluated", "One problem set was evaluated"
    (run / "summary.json").write_text(json.dumps(records))
    card = write_card(run).read_text()
    assert all(text in card for text in missing)
    records += [record(base, 0.28, 306.0, **hard), record("my-run", 0.03, 50.0, **hard)]
    records += [record("grpo", 0.21, 161.0, **hard)]
    (run / "summary.json").write_text(json.dumps(records))
    card = write_card(run).read_text()
    assert "> **On svamp: 31.0 tokens" in card and "On gsm8k: 50.0 tokens per completion instead of 306.0" in card
    assert "accuracy 3.0% instead of 28.0%**" in card
    assert not any(text in card for text in missing)


def test_without_a_name_of_the_base_a_folder_says_what_is_a_control(tmp_path):
    run = a_run(tmp_path / "my-run", base_model=None)
    for folder, item in {
        "eval": record("my-run", 0.7, 150.0),
        "base": record("local-base", 0.7, 300.0),
        "control-a": record("a", 0.8, 200.0),  # before `base` in the order of folders or not
        "control": record("z", 0.9, 100.0),
    }.items():
        (run / folder).mkdir()
        (run / folder / "summary.json").write_text(json.dumps([item]))
    card = write_card(run).read_text()
    assert "| base model | 70.0% [68.0–72.0] | 300.0" in card
    assert "| control: a | 80.0%" in card and "| control: z | 90.0%" in card


def test_the_pictures_of_a_report_stay(tmp_path):
    run = a_run(tmp_path / "my-run")
    (run / "summary.json").write_text(json.dumps([record("my-run", 0.9, 150.0)]))
    base = tmp_path / "summary.json"
    base.write_text(json.dumps([record("base", 0.9, 300.0)]))
    pictures = report([run], base=base)
    write_card(run)  # of a single point, which is no picture
    assert all(path.is_file() for path in pictures.values())


def test_other_models_in_the_folder_are_controls(tmp_path):
    run = a_run(tmp_path / "my-run")
    (run / "summary.json").write_text(json.dumps([record("my-run", 0.7, 150.0)]))
    for name, records in {
        "base": [record("Qwen/Qwen2.5-1.5B-Instruct", 0.7, 300.0)],
        "grpo": [record("outputs/gr|po", 0.8, 200.0), record("outputs/gr|po", 0.6, 90.0, budget=100)],
        "other": [record("grpo-at-another-limit", 0.8, 200.0, max_new_tokens=64)],
    }.items():
        (run / name).mkdir()
        (run / name / "summary.json").write_text(json.dumps(records))
    card = write_card(run).read_text()
    assert "| **this model** | **70.0%**" in card and "| control: grpo | 80.0% [78.0–82.0] | 200.0" in card
    assert card.count("control: ") == 1


@pytest.mark.parametrize(
    "some", [{"limit": 10}, {}, {"limit": None, "dataset_split": "train[:10]"}], ids=["limited", "unknown", "sliced"]
)
def test_a_part_of_a_benchmark_is_not_a_benchmark_result(some, tmp_path):
    run = a_run(tmp_path / "my-run")
    item = record("my-run", 0.9, 150.0, dataset="gsm8k")
    (run / "summary.json").write_text(json.dumps([item]))
    write_card(run)
    results, others = (run / ".eval_results" / name for name in ("openai_gsm8k.yaml", "mine.yaml"))
    assert results.is_file()
    others.write_text("- value: 1.0\n")
    del item["limit"]
    (run / "summary.json").write_text(json.dumps([item | {"problems": 10} | some]))
    card = ModelCard.load(write_card(run))
    assert not results.exists() and others.exists()
    assert "**gsm8k** (10 problems, 4 completions each)" in card.text
    assert {result.dataset_name for result in card.data.eval_results} == {"gsm8k, 10 problems"}
    assert card.data.eval_results[0].dataset_split == some.get("dataset_split", "test")


def test_removed_results_leave_no_file(tmp_path):
    run = a_run(tmp_path / "my-run")
    (run / "summary.json").write_text(json.dumps([record("my-run", 0.9, 150.0)]))
    write_card(run)
    (run / "summary.json").unlink()
    write_card(run)
    assert list((run / ".eval_results").iterdir()) == []


@pytest.mark.parametrize("name", ["gsm8k", "math/easy", "/home/me/problems"])
def test_local_sets_are_not_hub_benchmarks(name, tmp_path):
    run = a_run(tmp_path / "my-run")
    item = {key: value for key, value in record("my-run", 0.9, 150.0, dataset=name).items() if key not in GSM8K}
    (run / "summary.json").write_text(json.dumps([item]))
    card = ModelCard.load(write_card(run))
    assert "/home/me" not in str(card) and not (run / ".eval_results").exists()
    assert "/" not in card.data.eval_results[0].dataset_type


def test_two_evaluations_of_one_benchmark_are_distinguished(tmp_path):
    run = a_run(tmp_path / "my-run")
    part = record("my-run", 0.5, 70.0, limit=10, problems=10)
    other = record("my-run", 0.6, 80.0, dataset="train", dataset_split="train")
    (run / "summary.json").write_text(json.dumps([part, other, record("my-run", 0.9, 150.0, dataset="gsm8k")]))
    card = ModelCard.load(write_card(run))
    entries = yaml.safe_load(str(card).split("---\n")[1])["model-index"][0]["results"]
    assert [(one["dataset"]["split"], one["metrics"][0]["value"]) for one in entries] == [
        ("test", 0.9),
        ("train", 0.6),
    ]
    assert [len(one["metrics"]) for one in entries] == [2, 2]
    wrong = [line for line in card.text.splitlines() if line.startswith("- Wrong answers")]
    assert [line.split(" on ")[1] for line in wrong] == ["openai/gsm8k.", "train.", "gsm8k."]


def test_a_base_that_writes_nothing(tmp_path):
    run = a_run(tmp_path)
    log = [
        {"step": 0, "eval_accuracy": 0.0, "eval_tokens_mean": 0.0},
        {"step": 2, "eval_accuracy": 0.5, "eval_tokens_mean": 10.0},
        {"step": 3, "eval_accuracy": float("nan"), "eval_tokens_mean": 10.0},
    ]
    (run / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    text = write_card(run).read_text()
    assert "> **10.0 tokens per completion instead of 0.0, accuracy 50.0% instead of 0.0%**" in text
    assert "| **this model** | **50.0%** | **10.0** |  |  |" in text


def test_tables_stay_whole(tmp_path):
    settings = {"pattern": r".*\.(q_proj|v_proj)$", "text": "two\nlines", "reward_funcs": ["<lambda>", "even_reward"]}
    text = write_card(a_run(tmp_path, settings=settings)).read_text()
    assert r"| `pattern` | `.*\.(q_proj\|v_proj)$` |" in text
    assert "| `text` | two lines |" in text
    assert "| `reward_funcs` | `<lambda>`, even_reward |" in text


def test_the_command_in_the_record_of_an_older_version_is_not_shown(tmp_path):
    text = write_card(a_run(tmp_path, command="python train.py -p hunter2")).read_text()
    assert "hunter2" not in text


def test_only_a_base_of_the_same_settings_is_compared_with(tmp_path, caplog):
    run = a_run(tmp_path / "my-run")
    bases = [record("base", 0.7, 300.0, max_new_tokens=512), record("base", 0.5, 50.0, 64, max_new_tokens=512)]
    own = [record("my-run/checkpoint-5", 0.1, 1.0, limit=10), record("my-run", 0.72, 150.0)]
    (run / "summary.json").write_text(json.dumps([*bases, *own]))
    (run / "other").mkdir()
    (run / "other" / "summary.json").write_text(json.dumps({"of": "another tool"}))
    facts = {**FACTS, "base_model": "base"}
    (run / FACTS_FILE).write_text(json.dumps(facts))
    text = write_card(run).read_text()
    assert "| **this model** | **72.0%**" in text and "base model" not in text.partition("## Use")[0]
    assert "no base on openai/gsm8k: max_new_tokens is 2048, for the base 512" in caplog.text
    assert "not a summary of an evaluation" in caplog.text
    (run / "other" / "summary.json").write_text(json.dumps([record("base", 0.6, 200.0)]))
    assert "| base model | 60.0%" in write_card(run).read_text()


def test_results_of_trl_concise_eval(tmp_path):
    """It names a model in a folder by the folder, its checkpoints behind that, and a known set by its short name."""
    run = a_run(tmp_path / "my-run")
    records = [record("base", 0.7, 300.0), record("my-run/checkpoint-5", 0.1, 1.0), record("my-run", 0.72, 150.0)]
    (run / "summary.json").write_text(json.dumps([{**item, **MATH500, "dataset": "math500"} for item in records]))
    card = ModelCard.load(write_card(run))
    assert "| **this model** | **72.0%** [70.0–74.0]" in card.text
    assert card.data.eval_results[0].dataset_type == "HuggingFaceH4/MATH-500"
    assert "1.0 [" not in card.text


def test_unmeasured_results_are_absent(tmp_path):
    unknown = ("history", "seconds", "settings", "methods", "citations", "max_completion_length")
    run = a_run(tmp_path)
    facts = {name: value for name, value in FACTS.items() if name not in unknown}
    (run / FACTS_FILE).write_text(json.dumps(facts))
    text = write_card(run).read_text()
    headings = re.findall(r"^#+ (.*)", text, flags=re.MULTILINE)
    assert headings == ["qwen-hapo", "Use", "Training", "Framework versions"]
    for word in ("None", "nan", "Wall time", "History", "model-index", "bibtex", "Recommended", "plots/"):
        assert word not in text
    assert "\n\n\n" not in text
    assert card_errors(text) == []


def test_the_log_is_the_source_without_another_evaluation(tmp_path):
    run = a_run(tmp_path)
    log = [
        {"step": 0, "eval_accuracy": 0.5, "eval_tokens_mean": 80.0},
        {"step": 5, "accuracy": 0.1},
        {"step": 9, "eval_accuracy": 0.6, "eval_tokens_mean": 40.0, "eval_empty_fraction": 0.25},
    ]
    (run / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    text = write_card(run).read_text()
    assert "| base model | 50.0% | 80.0 |  |  |" in text
    assert "| **this model** | **60.0%** | **40.0** | 50% | +1.10 |" in text
    assert "Empty: 25.0% of completions" in text and "interval" not in text


def test_each_of_several_evaluation_sets_has_its_table(tmp_path):
    run = a_run(tmp_path)
    log = [
        {"step": step, f"eval_{name}_accuracy": accuracy, f"eval_{name}_tokens_mean": 9.0 - step}
        for step in (0, 2)
        for name, accuracy in (("easy", 0.9), ("hard", 0.1))
    ]
    (run / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    text = write_card(run).read_text()
    assert "> **On easy, evaluated in training: 7.0 tokens per completion" in text
    for name, row in (("easy", "**90.0%** | **7.0** | 22%"), ("hard", "**10.0%** | **7.0** | 22%")):
        table = text.split(f"**{name}, evaluated in training**\n\n")[1].split("\n\n")[0]
        assert row in table and f"of completions on {name}, evaluated in training (base model:" in text


def test_only_what_was_evaluated_before_the_first_step_is_the_base(tmp_path):
    run = a_run(tmp_path)
    first, last = (
        {"step": step, "eval_accuracy": accuracy, "eval_tokens_mean": tokens}
        for step, accuracy, tokens in ((5, 0.5, 80.0), (10, 0.6, 40.0))
    )
    (run / "trainer_state.json").write_text(json.dumps({"log_history": [first, last]}))
    text = write_card(run).read_text()
    assert "| **this model** | **60.0%** | **40.0** |  |  |" in text
    assert "| base model" not in text and "instead of" not in text
    (run / "trainer_state.json").write_text(json.dumps({"log_history": [{**first, "step": 0}]}))
    assert "this model" not in write_card(run).read_text()  # nothing trained was measured


def test_resuming_is_explained_where_the_checkpoint_is_on_the_hub(tmp_path):
    run = a_run(tmp_path)
    (run / "checkpoint-2").mkdir()
    assert "resume_from_checkpoint" not in write_card(run).read_text()
    a_run(run, resume="last-checkpoint")
    card = write_card(run).read_text()
    assert 'folder = snapshot_download("user/qwen-hapo")' in card
    assert 'trainer.train(resume_from_checkpoint=f"{folder}/last-checkpoint")' in card


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="run.json does not exist. A trainer of trl_concise writes it"):
        write_card(tmp_path)


def test_tags_are_spelled_one_way(tiny_model, problems, tmp_path):
    trainer = LASERDTrainer(tiny_model, tiny.even_reward, LASERDConfig(**tiny.settings(tmp_path)), problems)
    trainer.create_model_card(tags=["hf_jobs"])  # others' tags stay as they are
    tags = ModelCard.load(tmp_path / "README.md").data.tags
    assert tags == ["generated_from_trainer", "grpo", "hf_jobs", "laser-d", "trl", "trl-concise"]


@pytest.mark.parametrize("peft", [False, True])
def test_the_card_of_a_trained_model(peft, tiny_model, problems, tmp_path):
    run = tmp_path / "run"
    args = HAPOConfig(
        **tiny.settings(run, save_strategy="steps", save_steps=2, hub_token="hf_secret", length_reward_weight=0.5)
    )
    config = LoraConfig(r=4, target_modules=["q_proj"]) if peft else None
    trainer = HAPOTrainer(tiny_model, tiny.even_reward, args, problems, peft_config=config)
    trainer.train()
    trainer.save_model()  # PEFT edits the card here, and writes its own into the checkpoint

    cards = [run / "README.md", *([run / "checkpoint-2" / "README.md"] if peft else [])]
    for path in cards:
        card = ModelCard.load(path)
        assert {"trl", "trl-concise", "grpo", "hapo"} <= set(card.data.tags)
        assert ({"peft", "lora"} <= set(card.data.tags)) == peft
        assert card.data.library_name == ("peft" if peft else "transformers")
        assert card.data.base_model is None  # a folder of this machine
        assert "https://huggingface.co/papers/2505.11225" in card.text
        assert "@article{huang2025hapo" in card.text and "vonwerra2020trl" in card.text
        assert "| `length_reward_weight` | 0.5 |" in card.text
        assert ("AutoPeftModelForCausalLM" in card.text) == peft
        assert "| `reward_funcs` | even_reward, HAPOLengthReward |" in card.text
        assert ("| `lora_r` | 4 |" in card.text and "| `lora_target_modules` | q_proj |" in card.text) == peft
        assert card_errors(str(card)) == []
    trainer.create_model_card()
    assert "| Wall time |" in (run / "README.md").read_text()
    assert read_facts(run)["history"]["prompts"] == 4
    published = b"".join(
        path.read_bytes() for path in [*run.glob("*.md"), run / FACTS_FILE, *run.glob("concise_state/*")]
    )
    for private in (str(tmp_path), tiny_model, str(Path.home()), "hf_secret", "What is"):
        assert private.encode() not in published.replace(b"What is (27 + 8)", b"")
