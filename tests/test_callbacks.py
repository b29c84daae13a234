# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import re

import pandas as pd
import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerCallback

from tests import tiny
from trl_concise import ConciseProgressCallback, HAPOConfig, HAPOTrainer


def hapo(model, problems, tmp_path, **settings):
    args = HAPOConfig(**tiny.settings(tmp_path, **settings))
    return HAPOTrainer(
        model=model,
        reward_funcs=tiny.even_reward,
        args=args,
        train_dataset=problems.select(range(2)),
        eval_dataset=problems.select(range(4)),
    )


@pytest.mark.parametrize("terminal", [True, False])
def test_progress(tiny_model, problems, tmp_path, terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, force_interactive=terminal, width=120)
    trainer = hapo(tiny_model, problems, tmp_path, max_steps=3, eval_strategy="steps", eval_steps=2)
    trainer.add_callback(ConciseProgressCallback(console))
    trainer.evaluate()  # outside training there is no bar to add to
    trainer.train()
    shown = console.file.getvalue()
    figures = r"accuracy \d+%, \d+ tokens, history 100%"
    if terminal:
        shown = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", shown)  # colours and cursor
        assert re.search(rf"Training .* 3/3 .*{figures}", shown) and "Evaluation" in shown
    else:
        steps = re.findall(r"step (\d)/3: accuracy \d+%, \d+ tokens, history \d+%, \S+ left\n", shown)
        assert steps == ["1", "2", "3"] and "\x1b" not in shown
        assert re.search(figures, shown)


class FailInEvaluation(TrainerCallback):
    def on_prediction_step(self, args, state, control, **kwargs):
        raise RuntimeError("interrupted")


def test_training_that_failed_leaves_no_bar_when_it_is_started_again(tiny_model, problems, tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, force_interactive=True)
    trainer = hapo(tiny_model, problems, tmp_path, max_steps=1, eval_strategy="steps", eval_steps=1)
    trainer.add_callback(progress := ConciseProgressCallback(console))
    trainer.add_callback(FailInEvaluation)
    with pytest.raises(RuntimeError, match="interrupted"):
        trainer.train()
    failed = progress._progress
    assert failed.live.is_started
    trainer.remove_callback(FailInEvaluation)
    trainer.train()
    assert not failed.live.is_started and "Evaluation" in console.file.getvalue()


def test_trackers_and_completions_table(tiny_model, problems, tmp_path):
    # Both columns of the accuracy-against-tokens curve reach a tracker; each completion has its length over the history.
    trainer = hapo(tiny_model, problems, tmp_path, report_to="tensorboard", log_completions=True)
    lengths, targets = [], []
    reward, score = trainer.components[0], trainer.components[0].score

    def spy(rollouts):
        lengths.append(rollouts.lengths.tolist())
        targets.append(reward.history.shortest(rollouts.prompt_keys).tolist())
        return score(rollouts)

    reward.score = spy
    trainer.train()

    (events,) = tmp_path.rglob("events.out.tfevents*")
    scalars = EventAccumulator(str(events)).Reload()
    for name in ("accuracy", "completions/mean_length", "hapo/history_coverage"):
        logged = [log[name] for log in trainer.state.log_history if name in log]
        written = {event.step: event.value for event in scalars.Scalars(f"train/{name}")}
        assert list(written) == [1, 2] and list(written.values()) == pytest.approx(logged)

    first, second = (pd.read_parquet(file) for file in sorted((tmp_path / "completions").glob("*.parquet")))
    assert first["hapo/length_over_history"].isna().all()  # nothing to compare with yet
    ratios = [length / target for length, target in zip(lengths[1], targets[1], strict=True)]
    assert list(second["hapo/length_over_history"]) == pytest.approx(ratios, abs=5e-4, nan_ok=True)
