# SPDX-License-Identifier: Apache-2.0
"""A resumed run is the run. The whole matrix is printed by `python -m tests.tools.resume_matrix`."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import signal
import time
import weakref

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import TrainerCallback
from transformers.trainer_jit_checkpoint import JITCheckpointCallback

from tests import tiny
from tests.tools import kill_loop, resume_matrix
from trl_concise import HAPOConfig, HAPOTrainer
from trl_concise.state.resume import last_complete_checkpoint, missing_from_checkpoint
from trl_concise.state.rollout_block import load_rollout_block, save_rollout_block


def test_every_checkpoint_of_two_epochs_in_fresh_processes(capsys):
    assert resume_matrix.main(["--cases", "every slot"]) == 0, capsys.readouterr().out


@pytest.mark.slow
def test_resume_matrix(capsys):
    assert resume_matrix.main([]) == 0, capsys.readouterr().out


def test_kills(capsys):
    assert kill_loop.main(["--kills", "3", "--steps", "6"]) == 0, capsys.readouterr().out


# Rollouts of a generation block


def block(rows: int = 2) -> list[dict]:
    ids = torch.arange(4 * rows).view(2, rows, 2)
    return [
        {
            "completion_ids": ids[i],
            "advantages": torch.tensor([0.5, -0.5]),
            "num_items_in_batch": torch.tensor(7),
            "old_per_token_logps": None,
            "num_images": [1, 0],
        }
        for i in range(2)
    ]


def test_block_round_trip(tmp_path):
    for rank in range(2):
        save_rollout_block(tmp_path, block(rank + 1), micro_step=5, process_index=rank, num_processes=2)
    for rank in range(2):
        step, batches = load_rollout_block(tmp_path, process_index=rank, num_processes=2, block_steps=2, device="cpu")
        assert step == 5
        for one, other in zip(batches, block(rank + 1), strict=True):
            assert one.keys() == other.keys()
            assert torch.equal(one["completion_ids"], other["completion_ids"])
            assert one["num_images"] == [1, 0] and one["old_per_token_logps"] is None
            assert one["num_items_in_batch"] == 7 and one["num_items_in_batch"].ndim == 0


def test_no_block_between_two_generations(tmp_path):
    assert load_rollout_block(tmp_path, process_index=0, num_processes=1, block_steps=2, device="cpu") is None


def test_an_overwritten_checkpoint_drops_old_rollouts_and_keeps_linked_files(tiny_model, tmp_path):
    old, waiting = tmp_path / "checkpoint-1", tmp_path / "optimizer.pt"
    save_rollout_block(old, block(), micro_step=5, process_index=0, num_processes=1)
    (old / "optimizer.pt").write_bytes(b"of an earlier run")
    waiting.hardlink_to(old / "optimizer.pt")  # to be sent to the Hub
    dataset = Dataset.from_list([{"prompt": f"What is {i}?"} for i in range(8)])
    args = HAPOConfig(**tiny.settings(tmp_path, max_steps=1, save_strategy="steps", save_steps=1))
    HAPOTrainer(tiny_model, tiny.even_reward, args, dataset).train()
    assert missing_from_checkpoint(old) is None
    assert waiting.read_bytes() == b"of an earlier run" != (old / "optimizer.pt").read_bytes()
    assert load_rollout_block(old, process_index=0, num_processes=1, block_steps=2, device="cpu") is None


def test_a_block_of_other_processes_is_rolled_out_again_with_a_warning(tmp_path, caplog):
    save_rollout_block(tmp_path, block(), micro_step=5, process_index=0, num_processes=2)
    with caplog.at_level(logging.WARNING, logger="trl_concise"):
        assert load_rollout_block(tmp_path, process_index=0, num_processes=1, block_steps=2, device="cpu") is None
    assert "inside a generation block of 2 micro-steps by 2 processes and is resumed with 2 by 1" in caplog.text


def test_a_run_whose_blocks_have_another_shape_rolls_out_again(tiny_model, tmp_path, caplog):
    def run(**changes):
        args = HAPOConfig(
            **tiny.settings(tmp_path, num_iterations=2, **{"save_strategy": "steps", "save_steps": 1, **changes})
        )
        trainer = HAPOTrainer(tiny_model, tiny.even_reward, args, dataset)
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
        return trainer

    dataset = Dataset.from_list([{"prompt": f"What is {i}?"} for i in range(8)])
    run(max_steps=1)
    halves = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}  # as after running out of memory
    with caplog.at_level(logging.WARNING, logger="trl_concise"):
        resumed = run(max_steps=4, resume_from_checkpoint=str(tmp_path / "checkpoint-1"), **halves)
    assert resumed.state.global_step == 4
    assert "of 1 micro-steps by 1 processes and is resumed with 2 by 1" in caplog.text


# Half-written checkpoints


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model):
    """Output folder of a run of three steps, each saved."""
    folder = tmp_path_factory.mktemp("run")
    settings = tiny.settings(folder, max_steps=3, save_strategy="steps", save_steps=1)
    dataset = Dataset.from_list([{"prompt": f"What is {i}?"} for i in range(8)])
    HAPOTrainer(tiny_model, tiny.even_reward, HAPOConfig(**settings), dataset).train()
    return folder, tiny_model, dataset


@pytest.fixture
def output_dir(run, tmp_path):
    return shutil.copytree(run[0], tmp_path / "run")


def resumed(run, output_dir, resume_from_checkpoint=True):
    settings = tiny.settings(output_dir, max_steps=3)
    trainer = HAPOTrainer(run[1], tiny.even_reward, HAPOConfig(**settings), run[2])
    trainer.train(resume_from_checkpoint=resume_from_checkpoint)
    return trainer


def test_a_half_written_checkpoint_is_skipped_with_one_line(run, output_dir, caplog):
    (output_dir / "checkpoint-3" / "trainer_state.json").unlink()
    with caplog.at_level(logging.WARNING, logger="trl_concise"):
        trainer = resumed(run, output_dir)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("trl_concise")]
    assert lines == [
        f"{output_dir}/checkpoint-3 is half-written (it lacks trainer_state.json): resuming from "
        f"{output_dir}/checkpoint-2 instead."
    ]
    assert trainer.state.global_step == 3


def test_missing_files_of_a_checkpoint_are_named(output_dir):
    folder = output_dir / "checkpoint-3"
    assert missing_from_checkpoint(folder) is None
    state = (folder / "trainer_state.json").read_text()
    (folder / "trainer_state.json").write_text(state[: len(state) // 2])
    assert missing_from_checkpoint(folder) == "the end of trainer_state.json"
    (folder / "trainer_state.json").write_text(state)
    (folder / "model.safetensors").unlink()
    (folder / "plots").mkdir()  # of the model card
    assert missing_from_checkpoint(folder) == "the weights"
    assert last_complete_checkpoint(output_dir).name == "checkpoint-2"
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-00001-of-00002.safetensors").touch()
    assert missing_from_checkpoint(folder) == "model-00002-of-00002.safetensors"


def test_an_overwritten_checkpoint_is_incomplete_until_the_save_ends(run, output_dir):
    class Killed(HAPOTrainer):
        def _save_optimizer_and_scheduler(self, folder):
            raise KeyboardInterrupt

    settings = tiny.settings(output_dir, max_steps=3, save_strategy="steps", save_steps=1)
    trainer = Killed(run[1], tiny.even_reward, HAPOConfig(**settings), run[2])
    with pytest.raises(KeyboardInterrupt):
        trainer.train(resume_from_checkpoint=str(output_dir / "checkpoint-2"))
    assert missing_from_checkpoint(output_dir / "checkpoint-3") == "trainer_state.json"


def test_a_half_written_checkpoint_asked_for_by_name_is_refused(run, output_dir):
    (output_dir / "checkpoint-2" / "trainer_state.json").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-2 is not a complete checkpoint.*Resume from .*checkpoint-3"):
        resumed(run, output_dir, str(output_dir / "checkpoint-2"))


def test_nothing_to_resume_from(run, tmp_path):
    with pytest.raises(ValueError, match=r"No checkpoint to resume from .*: there is none"):
        resumed(run, tmp_path)


# Which checkpoint is meant


def build(run, output_dir, **changes):
    return HAPOTrainer(run[1], tiny.even_reward, HAPOConfig(**tiny.settings(output_dir, **changes)), run[2])


@pytest.fixture
def without_checkpoints(output_dir):
    """An output folder as `save_model()` and the model card leave it after training with `save_strategy="no"`."""
    for name in ("model.safetensors", "config.json", "trainer_state.json"):
        shutil.copy(output_dir / "checkpoint-3" / name, output_dir / name)
    for folder in output_dir.glob("checkpoint-*"):
        shutil.rmtree(folder)
    return output_dir


def test_the_output_folder_is_not_a_checkpoint(run, output_dir):
    message = r"run is the output folder of a run, not a checkpoint\. Resume from .*/run/checkpoint-3\."
    with pytest.raises(ValueError, match=message):
        resumed(run, output_dir, str(output_dir))
    for name in ("model.safetensors", "config.json", "trainer_state.json"):  # save_model() and the model card
        shutil.copy(output_dir / "checkpoint-3" / name, output_dir / name)
    with pytest.raises(ValueError, match=message):
        resumed(run, output_dir, output_dir)
    for folder in output_dir.glob("checkpoint-*"):
        (folder / "trainer_state.json").unlink()
    with pytest.raises(ValueError, match=r"not a checkpoint\. No complete checkpoint was found in .*/run either"):
        resumed(run, output_dir, str(output_dir))


def test_a_saved_model_is_not_a_checkpoint(run, without_checkpoints):
    with pytest.raises(ValueError, match=r"without the state of its optimizer, .* pass the folder as the model"):
        resumed(run, without_checkpoints, str(without_checkpoints))


@pytest.mark.parametrize("name", ["checkpoint-7", "checkpoint-3/trainer_state.json"])
def test_a_folder_that_does_not_exist(run, output_dir, name):
    with pytest.raises(ValueError, match=rf"The folder .*/{name} to resume from does not exist\."):
        resumed(run, output_dir, str(output_dir / name))
    with pytest.raises(ValueError, match=r"Resume from .*/checkpoint-3\."):
        resumed(run, output_dir, str(output_dir / "checkpoint-7"))


def test_a_checkpoint_without_the_optimizer_is_resumed_with_a_warning(run, output_dir, caplog):
    (output_dir / "checkpoint-1" / "optimizer.pt").unlink()
    with caplog.at_level(logging.WARNING, logger="trl_concise"):
        assert resumed(run, output_dir, str(output_dir / "checkpoint-1")).state.global_step == 3
    assert "checkpoint-1 holds no optimizer state (save_only_model=True): the optimizer and its" in caplog.text


def test_auto_resumes_if_there_is_a_complete_checkpoint(run, output_dir, caplog):
    for step in (2, 3):
        (output_dir / f"checkpoint-{step}" / "trainer_state.json").unlink()
    trainer = build(run, output_dir, max_steps=3, resume_from_checkpoint="auto")
    with caplog.at_level(logging.WARNING, logger="trl_concise"):
        trainer.train()  # the config counts where `train` is given nothing
    assert "checkpoint-3 is half-written" in caplog.text and "checkpoint-2 is half-written" in caplog.text
    assert trainer.find_checkpoint().endswith("checkpoint-1")
    assert tiny.losses(trainer) == tiny.losses(resumed(run, output_dir, str(output_dir / "checkpoint-1")))
    (output_dir / "checkpoint-1" / "trainer_state.json").unlink()
    with caplog.at_level(logging.WARNING, logger="trl_concise"):
        assert trainer.find_checkpoint() is None
    assert "checkpoint-1 is half-written (it lacks trainer_state.json): training starts from the" in caplog.text


def test_auto_starts_if_there_is_no_checkpoint(run, tmp_path):
    trainer = build(run, tmp_path / "new", max_steps=1, resume_from_checkpoint="auto")
    assert trainer.train().global_step == 1


def test_the_config_determines_whether_to_resume(run, output_dir):
    trainer = build(run, output_dir, max_steps=3, resume_from_checkpoint=True)
    assert trainer.find_checkpoint().endswith("checkpoint-3")
    assert trainer.find_checkpoint(False) is None and trainer.find_checkpoint("auto").endswith("checkpoint-3")
    shutil.rmtree(output_dir / "checkpoint-3")
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [1, 2, 3]
    assert trainer.train(resume_from_checkpoint=False).global_step == 3


@pytest.mark.parametrize("changes", [{"max_steps": 3}, {"max_steps": 2}, {"max_steps": -1, "num_train_epochs": 0.75}])
def test_a_finished_run_trains_no_step(run, output_dir, caplog, changes):
    """8 prompts, two a step: three steps are 0.75 epochs."""
    before = {path: path.stat().st_mtime_ns for path in output_dir.rglob("*")}
    trainer = build(run, output_dir, **{"save_strategy": "steps", "save_steps": 1, **changes})
    assert trainer.is_finished(output_dir / "checkpoint-3") and not trainer.is_finished(output_dir / "checkpoint-1")
    with caplog.at_level(logging.WARNING, logger="trl_concise"):
        trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 3 and len(trainer.history) > 0
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("trl_concise")]
    assert len(lines) == 1 and lines[0].startswith("The run is finished: its checkpoint is of step 3 of ")
    assert {path: path.stat().st_mtime_ns for path in output_dir.rglob("*")} == before
    saved = load_file(output_dir / "checkpoint-3" / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in trainer.model.state_dict().items() if name in saved)


# What cannot be exact is said by name


def test_a_moving_reference_that_is_in_no_checkpoint_is_refused(run, output_dir):
    settings = tiny.settings(output_dir, max_steps=3, beta=0.1, sync_ref_model=True, ref_model_sync_steps=1)
    trainer = HAPOTrainer(run[1], tiny.even_reward, HAPOConfig(**settings), run[2])
    with pytest.raises(ValueError, match="contains no reference model"):
        trainer.train(resume_from_checkpoint=True)


def test_the_last_file_of_a_checkpoint(output_dir):
    """`missing_from_checkpoint` relies on it."""
    files = [path for path in (output_dir / "checkpoint-2").rglob("*") if path.is_file()]
    newest = max(files, key=lambda path: path.stat().st_mtime_ns)
    assert newest.name == "trainer_state.json" and json.loads(newest.read_text())["global_step"] == 2


# Saved inside an optimizer step


class SaveInside(TrainerCallback):
    """Saves in an event of the second step, and stops the run."""

    def __init__(self, event):
        self.trainer = None
        setattr(self, event, self.save)

    def save(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.trainer._save_checkpoint(self.trainer.model, trial=None)
            control.should_training_stop = True


class Terminated(TrainerCallback):
    """Gets SIGTERM in the second step, between two micro-steps."""

    def on_substep_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            callbacks = self.trainer.callback_handler.callbacks
            (manager,) = (item.jit_manager for item in callbacks if isinstance(item, JITCheckpointCallback))
            manager.kill_wait = 0
            os.kill(os.getpid(), signal.SIGTERM)
            while not manager.is_checkpoint_requested:
                time.sleep(0.01)


def complete_run(model, folder, callback=None, resume=None, **changes):
    """A run in which dropout and generation draw from the random state, and all that it has learned."""
    from tests.tools import parts
    from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, HAPOLengthReward

    dataset = Dataset.from_list([{"prompt": f"What is {i}?"} for i in range(8)])
    settings = tiny.settings(folder, max_steps=4, per_device_train_batch_size=4, **changes)
    trainer = ConciseGRPOTrainer(
        model,
        [tiny.even_reward, HAPOLengthReward()],
        ConciseGRPOConfig(**settings),
        dataset,
        callbacks=[callback] if callback else None,
        peft_config=LoraConfig(target_modules=["q_proj", "v_proj"], lora_dropout=0.5),
        **{slot: part() for slot, part in parts.SLOTS.values()},
    )
    if callback:
        callback.trainer = trainer
    trainer.train(resume_from_checkpoint=resume)
    history = trainer.history.to_pandas().sort_index().fillna(-1).to_dict("index")
    tokens = [entry["num_tokens"] for entry in trainer.state.log_history if "num_tokens" in entry]
    return history, tiny.losses(trainer)[1:], tokens[1:]


@pytest.mark.parametrize(
    ("event", "changes"),
    [
        ("on_substep_end", {"gradient_accumulation_steps": 2}),
        ("on_pre_optimizer_step", {"num_iterations": 2, "num_generations": 2}),
    ],
)
def test_a_run_saved_inside_a_step_resumes_exactly(event, changes, tiny_model, tmp_path):
    whole = complete_run(tiny_model, tmp_path / "whole", **changes)
    complete_run(tiny_model, tmp_path / "stopped", SaveInside(event), **changes)
    checkpoint = str(tmp_path / "stopped" / "checkpoint-1")
    assert complete_run(tiny_model, tmp_path / "resumed", resume=checkpoint, **changes) == whole


def test_a_run_that_is_terminated_inside_a_step_resumes_exactly(tiny_model, tmp_path):
    """Each micro-step generates: the step has rolled out two batches when it is stopped."""
    changes = {"gradient_accumulation_steps": 2, "steps_per_generation": 1, "enable_jit_checkpoint": True}
    whole = complete_run(tiny_model, tmp_path / "whole", **changes)
    complete_run(tiny_model, tmp_path / "stopped", Terminated(), **changes)
    checkpoint = str(tmp_path / "stopped" / "checkpoint-1")
    assert complete_run(tiny_model, tmp_path / "resumed", resume=checkpoint, **changes) == whole


def test_a_save_after_the_update_is_refused(tiny_model, tmp_path):
    with pytest.raises(ValueError, match=r"would update them twice\. Save in `on_step_end` instead"):
        complete_run(tiny_model, tmp_path, SaveInside("on_optimizer_step"))


def test_saving_inside_a_step_leaves_the_run_as_it_is(tiny_model, tmp_path):
    class Goes(SaveInside):
        def save(self, args, state, control, **kwargs):
            super().save(args, state, control)
            control.should_training_stop = False

    whole = complete_run(tiny_model, tmp_path / "whole")
    assert complete_run(tiny_model, tmp_path / "saved", Goes("on_pre_optimizer_step")) == whole


def test_a_step_does_not_keep_the_rollouts_of_the_one_before(tiny_model, tmp_path):
    """Each step generates."""

    class Weak(HAPOTrainer):
        def _compute_loss(self, model, inputs):
            self.references.append(weakref.ref(inputs["completion_ids"]))
            return super()._compute_loss(model, inputs)

    dataset = Dataset.from_list([{"prompt": f"What is {i}?"} for i in range(8)])
    trainer = Weak(tiny_model, tiny.even_reward, HAPOConfig(**tiny.settings(tmp_path, max_steps=3)), dataset)
    trainer.references = []
    trainer.train()
    gc.collect()
    assert sum(reference() is not None for reference in trainer.references) == 1  # of the last step


# Streams


def test_a_streamed_run_resumes_in_its_epoch(tiny_model, tmp_path):
    """8 rows are 4 steps: the order of the second pass differs from that of the first."""

    def run(folder, resume=None):
        seen = []

        def reward(prompts, completion_ids, **kwargs):
            seen.append(prompts)
            return tiny.even_reward(completion_ids)

        settings = tiny.settings(folder, max_steps=8, save_strategy="steps", save_steps=1)
        stream = Dataset.from_list([{"prompt": f"What is {i}?"} for i in range(8)]).to_iterable_dataset()
        trainer = HAPOTrainer(tiny_model, reward, HAPOConfig(**settings), stream)
        trainer.train(resume_from_checkpoint=resume)
        return seen, tiny.losses(trainer), trainer.history.to_pandas().sort_index().fillna(-1).to_dict("index")

    seen, losses, history = run(tmp_path / "whole")
    assert seen[:4] != seen[4:]
    for step in (3, 4, 5):  # inside the first pass, at its end, inside the second
        resumed = run(tmp_path / f"from-{step}", str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert resumed == (seen[step:], losses, history)
