# SPDX-License-Identifier: Apache-2.0
"""Checkpoints on the frontier reach the Hub, and come back; a Hub that is down is no trouble."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainerControl, TrainerState, TrainingArguments

from tests import tiny
from tests.hub.outboxes import checkpoint, mark_sent, steps, unsent
from tests.hub_server import HubServer
from tests.test_hub_server import run_client
from trl_concise import HAPOConfig, HAPOTrainer, HubFrontierCallback
from trl_concise.hub.frontier import best_trade_off, frontier_steps
from trl_concise.hub.outbox import FOLDER, Outbox, Revision


ROOT = Path(__file__).parents[2]


def train_and_push(hub: HubServer, *arguments, launcher: tuple[str, ...] = ()) -> tuple[dict, str]:
    """Return what the run printed, and its warnings."""
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "tests.hub.train_and_push", *map(str, arguments)],
        env={**os.environ, **hub.environment(), "HF_HUB_DISABLE_TELEMETRY": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


points = st.tuples(st.sampled_from([0.0, 0.5, 0.9, 1.0]), st.sampled_from([10.0, 20.0, 40.0]))


@given(st.lists(points, min_size=1, max_size=8))
def test_the_frontier_beats_the_rest_and_holds_no_two_that_compare(measured):
    steps = dict(enumerate(measured))
    frontier = frontier_steps(steps)

    def beats(one, other):
        return steps[one][0] >= steps[other][0] and steps[one][1] <= steps[other][1]

    assert frontier
    assert not any(beats(one, other) for one in frontier for other in frontier if one != other)
    assert all(any(beats(one, other) for one in frontier) for other in steps)


def test_the_best_trade_off_is_against_the_first_evaluation():
    short, right = Revision(1, 0.88, 50.0), Revision(2, 0.92, 90.0)
    assert best_trade_off({0: (0.9, 100.0)}, [short, right]) == "step-000001"
    assert best_trade_off({0: (0.0, 100.0)}, [short, right]) == "step-000002"  # no score against nothing


def test_revisions_of_an_earlier_run_in_the_folder_are_neither_dropped_nor_ranked(tmp_path):
    """They wait since that run was killed while the Hub was down; this one began afresh."""
    earlier, own, beaten = Revision(2, 0.9, 5.0), Revision(4, 0.8, 50.0), Revision(3, 0.7, 60.0)
    points = {0: (0.8, 90.0), 2: (0.7, 70.0), 3: (0.7, 60.0), 4: (0.8, 50.0)}
    callback = HubFrontierCallback("tester/model")
    outbox = Outbox(tmp_path, "tester/model")
    for revision in (earlier, beaten, own):
        outbox.add(revision, checkpoint(tmp_path, revision.step), {})
    with outbox.change() as record:
        callback._choose(record, points, {4})
    assert steps(outbox) == [2, 4] and outbox.read().best == "step-000004"


def test_waiting_revisions_are_dropped_before_sent_ones(tmp_path):
    revisions = [Revision(step, 0.5, 10.0 - step) for step in (1, 2, 3)]
    callback = HubFrontierCallback("tester/model", max_revisions=2)
    outbox = Outbox(tmp_path, "tester/model")
    for revision in revisions:
        outbox.add(revision, checkpoint(tmp_path, revision.step), {})
    mark_sent(outbox, "step-000001")
    with outbox.change() as record:
        callback._choose(record, {revision.step: (0.5, revision.tokens) for revision in revisions}, {3})
    assert steps(outbox) == [1, 3]


A_PUSH_IN_BETWEEN = """
import sys
from pathlib import Path
from transformers import TrainerControl, TrainerState, TrainingArguments
from tests.hub.outboxes import checkpoint
from trl_concise import HubFrontierCallback
from trl_concise.hub.push import push_run
run = Path(sys.argv[1])
args = TrainingArguments(run, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1)
callback, state, control = HubFrontierCallback("tester/model"), TrainerState(), TrainerControl()
callback.on_train_begin(args, state, control)
for state.global_step in (1, 2):
    checkpoint(run, state.global_step)
    state.log_history.append({"step": state.global_step, "eval_accuracy": state.global_step / 2, "eval_tokens_mean": 9})
    callback.on_save(args, state, control)
    push_run(run)
callback.on_train_end(args, state, control)
push_run(run)
"""


@pytest.mark.slow
def test_a_push_from_the_process_that_trains(tmp_path):
    with HubServer() as hub:
        run_client(hub, A_PUSH_IN_BETWEEN, tmp_path)
        repo = hub.repos["tester/model"]
        assert set(repo.branches) == {"main", "step-000001", "step-000002"}
        assert repo.tags == {"best": repo.branches["step-000002"]}
    assert unsent(tmp_path) == []


def test_one_of_several_evaluation_datasets_counts(tmp_path, caplog):
    log = [
        {"step": 1, "eval_easy_accuracy": 0.9, "eval_easy_tokens_mean": 20.0},
        {"step": 1, "eval_hard_accuracy": 0.5, "eval_hard_tokens_mean": 90.0},
        {"step": 2, "eval_hard_accuracy": None, "eval_hard_tokens_mean": 80.0},
    ]
    args = TrainingArguments(tmp_path, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1)
    checkpoint(tmp_path, 1)
    for eval_name, step, warning in (
        (None, 1, "eval_name (None) to one of the evaluation datasets: ['easy', 'hard']"),
        ("hard", 2, "step 2 was not evaluated and is not pushed. Set eval_steps so that it divides save_steps"),
        ("hard", 1, ""),
    ):
        callback = HubFrontierCallback("tester/model", eval_name=eval_name)
        state = TrainerState(log_history=log, global_step=step)
        callback.on_train_begin(args, state, TrainerControl())
        callback.on_save(args, state, TrainerControl())
        kept = [(one.accuracy, one.tokens) for one in callback.outbox.read().revisions.values()]
        assert kept == [(0.5, 90.0)] * (not warning)
        assert warning in caplog.text


def test_settings_that_cannot_work_are_refused(tiny_model, problems, tmp_path):
    with pytest.warns(FutureWarning, match="max_waiting has no effect"):
        HubFrontierCallback("user/model", max_waiting=4)
    with pytest.raises(ValueError, match="max_revisions must be at least 1, got 0"):
        HubFrontierCallback("user/model", max_revisions=0)
    trainer = HAPOTrainer(tiny_model, tiny.even_reward, HAPOConfig(**tiny.settings(tmp_path)), problems)
    trainer.add_callback(HubFrontierCallback("user/model"))
    with pytest.raises(ValueError, match="needs checkpoints and their evaluation; got eval_strategy='no'"):
        trainer.train()


FETCH = """
import sys
from huggingface_hub import ModelCard, snapshot_download
from transformers import AutoModelForCausalLM
folder = snapshot_download("tester/model", revision="best", local_dir=sys.argv[1])
AutoModelForCausalLM.from_pretrained("tester/model", revision="best")
card = ModelCard.load("tester/model")
print({result.metric_type: result.metric_value for result in card.data.eval_results})
"""


@pytest.mark.slow
def test_a_run_is_pushed_downloaded_and_resumed_with_the_same_history(tiny_model, tmp_path):
    run = tmp_path / "trl-model"
    run.mkdir()
    (run / "push_too").touch()
    with HubServer() as hub:
        printed, _ = train_and_push(hub, tiny_model, run, 4)
        repo, own = hub.repos["tester/model"], hub.repos["tester/trl-model"]
        # Each checkpoint beats those before: they are not sent any more, or deleted beyond two revisions.
        assert {"main", "step-000004"} <= set(repo.branches) and len(repo.branches) <= 3
        assert repo.tags == {"best": repo.branches["step-000004"]}
        best = repo.files("best")
        assert {"model.safetensors", "optimizer.pt", "concise_state/hapo.safetensors", "README.md"} <= set(best)
        assert {"README.md", "run.json", "plots/card.png"} == set(repo.files()) - {".gitattributes"}
        assert {"concise_state/hapo.safetensors", "plots/card.png", "README.md"} <= set(own.files())
        public = {name: data for name, data in best.items() if not name.endswith(".pth")}
        assert not any(b"secret question" in data for data in [*public.values(), *repo.files().values()])
        assert "training_args.bin" not in best

        push = "import sys\nfrom trl_concise.cli.commands import main\nsys.exit(main(sys.argv[1:]))"
        run_client(hub, push, "push", run, "--repo_id", "tester/model")
        state = (run / "checkpoint-4" / "concise_state" / "state.json").read_bytes()
        assert repo.files()["last-checkpoint/concise_state/state.json"] == state
        assert not any("training_args" in name or name.startswith("checkpoint-") for name in repo.files())

        fetched = tmp_path / "fetched"
        out = run_client(hub, FETCH, fetched, HF_HUB_CACHE=str(tmp_path / "cache"))
        assert out.splitlines()[-1] == "{'accuracy': 1.0, 'mean_response_tokens': 5.0}"  # 4 and EOS
        resumed, _ = train_and_push(hub, tiny_model, tmp_path / "resumed", 5, fetched)
    assert resumed["began"] == printed["ended"]
    assert resumed["steps"] == 5
    assert sum(row["visits"] for row in resumed["ended"].values()) == 2 + sum(
        row["visits"] for row in printed["ended"].values()
    )
    assert not list((run / FOLDER).glob("*/step-*"))


@pytest.mark.slow
def test_two_processes_push_once_with_the_files_of_both(tiny_model, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    with HubServer() as hub:
        train_and_push(hub, tiny_model, tmp_path, 2, launcher=launcher)
        repo = hub.repos["tester/model"]
        assert repo.tags == {"best": repo.branches["step-000002"]}
        assert {"rng_state_0.pth", "rng_state_1.pth", "concise_state/hapo.safetensors"} <= set(repo.files("best"))


def test_a_run_ends_normally_without_a_hub_and_lists_unsent_revisions(tiny_model, tmp_path):
    with HubServer() as hub:
        hub.__exit__()
        printed, warnings = train_and_push(hub, tiny_model, tmp_path, 3)
    assert printed["steps"] == 3
    assert "Not sent to tester/model: step-000003, tag 'best' on step-000003.\nNothing is lost" in warnings
    assert f"trl-concise push {tmp_path} --repo_id tester/model" in warnings
    (kept,) = (tmp_path / FOLDER).glob("*/step-*")
    assert {"model.safetensors", "optimizer.pt", "README.md"} <= {path.name for path in kept.iterdir()}
    card = (kept / "README.md").read_text()
    assert 'model="tester/model"' in card and "| Optimizer steps | 3 |" in card  # where it goes, and what it is
    assert unsent(tmp_path) == ["step-000003", "tag 'best' on step-000003"]
