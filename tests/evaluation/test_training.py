# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math

import pytest
import torch

from tests import tiny
from tests.distributed import evaluation as distributed
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.evaluation import accuracy_efficiency_score
from trl_concise.evaluation.training import EvaluationLog, measure_completions


NAMES = ["accuracy", "tokens_mean", "tokens_correct_mean", "truncated_fraction", "empty_fraction"]


def test_measures():
    measures = measure_completions(
        ["41", [{"role": "assistant", "content": "<think>6*7</think> "}], "a tool wrote"],
        [[5, 6, 2], [5, 6], [7, 8, 9, 2]],
        None,
        {2},
    )
    assert measures[:, :3].tolist() == [[3, 0, 0], [2, 1, 1], [4, 0, 0]]
    assert measures[:, 3].tolist() == pytest.approx([math.nan, 1, math.nan], nan_ok=True)
    measures = measure_completions(["b"], [[7, 8, 9, 2]], [[1, 0, 0, 1]], {2})
    assert measures[:, :3].tolist() == [[2, 0, 0]]
    measures = measure_completions(["a</think> 1", "</think> 1"], [[1], [2]], None, set(), [True, True])
    assert measures[:, 3].tolist() == [1, 0]


def batch(correct: list[float], tokens: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    measures = torch.zeros(len(tokens), 4, dtype=torch.float64)
    measures[:, 0] = torch.tensor(tokens)
    measures[:, 3] = math.nan
    return torch.tensor(correct), measures


@pytest.mark.parametrize("first", [1.0, math.nan])
def test_log_tells_the_modes_apart(first):
    """A completion without markers answered directly if another one has them."""
    log = EvaluationLog()
    log.start("eval")
    correct, measures = batch([1, 0, 1, 1], [10, 20, 3, 5])
    log.add(
        correct,
        measures.index_put((torch.arange(4), torch.tensor([3] * 4)), torch.tensor([1.0, 1, first, first]).double()),
        rows=None,
    )
    metrics = log.finish([], 0)
    own = {
        name.removeprefix("eval_"): value for name, value in metrics.items() if "thinking" in name or "direct" in name
    }
    if first == 1:
        assert own == {"thinking_fraction": 1}
    else:
        assert own == {
            "thinking_fraction": 0.5,
            "thinking_accuracy": 0.5,
            "thinking_tokens_mean": 15,
            "direct_accuracy": 1,
            "direct_tokens_mean": 4,
        }


def test_log_sums_up_over_batches_and_forgets_repeated_rows():
    log = EvaluationLog()
    log.start("eval")
    log.add(*batch([1, 0, math.nan, 1], [10, 20, 30, 40]), rows=6)
    log.add(*batch([0, 0, 1, 1], [50, 60, 1000, 1000]), rows=6)
    metrics = log.finish([], 0)
    assert metrics["eval_accuracy"] == pytest.approx(2 / 5)  # the unknown one does not count
    assert metrics["eval_tokens_mean"] == 35
    assert metrics["eval_tokens_correct_mean"] == 25
    assert metrics["eval_accuracy_efficiency"] == 0
    assert log.finish([], 0) == {}  # once


def test_log_compares_with_the_first_evaluation_of_its_set():
    log = EvaluationLog()
    history = []
    for prefix, correct, tokens in [("eval_a", 1.0, 100), ("eval_b", 0.5, 10), ("eval_a", 1.0, 60)]:
        log.start(prefix)
        log.add(*batch([correct], [tokens]), rows=None)
        metrics = log.finish(history, 3)
        history.append(metrics)
    assert metrics["eval_a_accuracy_efficiency"] == pytest.approx(0.4)


def test_undefined_metrics_are_left_out(caplog):
    log = EvaluationLog()
    for _ in range(2):
        log.start("eval")
        log.add(*batch([0, 0], [10, 20]), rows=None)
        metrics = log.finish([], 0)
    assert metrics.keys() == {f"eval_{name}" for name in NAMES} - {"eval_tokens_correct_mean"}
    assert caplog.text.count("the first evaluation has no correct completion") == 1


@pytest.mark.parametrize("best", ["eval_accuracy_efficiency", "accuracy_efficiency"])
def test_a_best_model_needs_a_score_that_is_defined(best, tiny_model, problems, tmp_path):
    settings = tiny.settings(tmp_path, max_steps=1, eval_strategy="steps", eval_steps=1, eval_on_start=True)
    trainer = ConciseGRPOTrainer(
        model=tiny_model,
        reward_funcs=lambda completions, **kwargs: [0.0] * len(completions),
        args=ConciseGRPOConfig(**settings, metric_for_best_model=best),
        train_dataset=problems.select(range(2)),
        eval_dataset=problems.select(range(2)),
    )
    with pytest.raises(ValueError, match="is undefined: .* Set metric_for_best_model='eval_accuracy'"):
        trainer.train()
    assert trainer.state.global_step == 0


def evaluations(trainer) -> list[dict]:
    return [entry for entry in trainer.state.log_history if "eval_tokens_mean" in entry]


def by_row(values: list[int]):
    """A rollout function: the completion's length by the number its prompt begins with, and the optimizer's step."""

    def rollout(prompts, trainer):
        rows = [int(prompt.split("?")[0]) for prompt in prompts]
        lengths = [values[row] if trainer.state.global_step == 0 else max(1, values[row] - 2) for row in rows]
        return tiny.rollouts_of([lengths])(prompts, trainer)

    return rollout


def make_trainer(model, folder, **changes) -> ConciseGRPOTrainer:
    args = ConciseGRPOConfig(
        **tiny.settings(folder, eval_strategy="steps", eval_steps=1, num_generations_eval=2, **changes)
    )
    return ConciseGRPOTrainer(
        model,
        distributed.correct_if_even,
        args,
        distributed.dataset(4),
        distributed.dataset(5),
        rollout_func=by_row([4, 6, 8, 10, 3]),
    )


def test_evaluation_in_training(tiny_model, tmp_path):
    trainer = make_trainer(tiny_model, tmp_path, eval_on_start=True, max_steps=1)
    trainer.train()
    first, last = evaluations(trainer)
    # Four of five prompts are answered with an even number of tokens; with EOS each is one longer.
    assert first["eval_accuracy"] == last["eval_accuracy"] == pytest.approx(0.8)
    assert first["eval_tokens_mean"] == pytest.approx(31 / 5 + 1)
    assert first["eval_tokens_correct_mean"] == 8
    assert first["eval_truncated_fraction"] == first["eval_empty_fraction"] == 0
    assert first["eval_accuracy_efficiency"] == 0
    assert last["eval_accuracy_efficiency"] == pytest.approx(
        accuracy_efficiency_score(0.8, last["eval_tokens_mean"], 0.8, first["eval_tokens_mean"])
    )


def test_best_model_by_these_metrics_and_the_base_survives_a_resume(tiny_model, tmp_path):
    best = {"metric_for_best_model": "eval_accuracy_efficiency", "load_best_model_at_end": True}
    saving = {"save_strategy": "steps", "save_steps": 1, "greater_is_better": True, "max_completion_length": 32}
    trainer = make_trainer(tiny_model, tmp_path, max_steps=2, **best, **saving)
    before = trainer.evaluate()  # the base, although training starts a log of its own
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")  # the second is as good, not better
    assert evaluations(trainer)[0]["eval_tokens_mean"] == before["eval_tokens_mean"]
    assert trainer.state.best_metric > 0

    resumed = make_trainer(tiny_model, tmp_path, max_steps=3, **best, **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [entry["step"] for entry in evaluations(resumed)] == [0, 1, 2, 3]
    last = evaluations(resumed)[-1]
    assert last["eval_accuracy_efficiency"] == pytest.approx(1 - last["eval_tokens_mean"] / before["eval_tokens_mean"])


def test_several_sets(tiny_model, tmp_path):
    trainer = make_trainer(tiny_model, tmp_path)
    metrics = trainer.evaluate({"long": distributed.dataset(3), "all": distributed.dataset(5)})
    assert metrics["eval_long_accuracy"] == 1
    assert metrics["eval_all_accuracy"] == pytest.approx(0.8)


def test_two_processes_log_what_one_does(tiny_model, tmp_path, two_processes):
    """Ten completions in batches of eight: accelerate repeats six to fill the last one."""
    one = distributed.evaluate(tiny_model, tmp_path / "one", rows_per_process=8)
    folder = two_processes / "evaluation"
    two = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert [rank["world_size"] for rank in two] == [2, 2] and one["world_size"] == 1
    assert two[0]["metrics"] == two[1]["metrics"] == pytest.approx(one["metrics"], abs=1e-12)
    assert set(one["metrics"]) == {f"eval_{name}" for name in [*NAMES, "accuracy_efficiency"]}
    assert one["rows"] == 10
