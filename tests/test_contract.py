# SPDX-License-Identifier: Apache-2.0
"""The methods of TRL's that we override: a release that moves one fails here, with a line that names it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch
from transformers import Trainer
from trl import DistillationTrainer, DPOTrainer, GRPOTrainer, RewardTrainer, SFTTrainer
from trl.trainer.utils import RepeatSampler

import trl_concise
from trl_concise.methods.realignment import TrRaTrainer
from trl_concise.methods.tdrm import TDRMTrainer


SEAMS = {
    "_get_train_sampler": ["self", "dataset"],
    "_generate": ["self", "prompts"],
    "_generate_single_turn": [
        "self",
        "prompt_ids",
        "images",
        "multimodal_fields",
        "num_generations",
        "has_tool_images",
    ],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_prepare_inputs": ["self", "generation_batch"],
    "_compute_loss": ["self", "model", "inputs"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_save_optimizer_and_scheduler": ["self", "output_dir"],
    "_load_optimizer_and_scheduler": ["self", "checkpoint"],
}
OVERRIDDEN = {  # public methods
    "get_train_dataloader": ["self"],
    "evaluate": ["self", "eval_dataset", "ignore_keys", "metric_key_prefix"],
    "log": ["self", "logs", "start_time"],
}
OF_THE_CARD = {
    "create_model_card": ["self", "model_name", "dataset_name", "tags"],
    "save_model": ["self", "output_dir", "_internal_call"],
    "_save": ["self", "output_dir", "state_dict"],
    "_push_from_checkpoint": ["self", "checkpoint_folder"],
}
OF_RESUMING = {
    "train": ["self", "resume_from_checkpoint", "trial", "ignore_keys_for_eval"],
    "_init_training_state": [
        "self",
        "max_steps",
        "num_update_steps_per_epoch",
        "num_train_epochs",
        "resume_from_checkpoint",
        "trial",
    ],
    "set_initial_training_values": ["self", "args", "dataloader"],
}
CALLED = {  # we pass these by position, and the rest through
    "_tokenize_prompts": ["self", "prompts"],
    "_get_per_token_logps_and_entropies": ["self", "model", "input_ids", "attention_mask", "logits_to_keep"],
    "_log_completion_extra": ["self", "column", "values"],
}
PACKAGE = Path(trl_concise.__file__).parent


@pytest.mark.parametrize("name", SEAMS | OVERRIDDEN)
def test_trl_seam_unchanged(name):
    assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == (SEAMS | OVERRIDDEN)[name]


@pytest.mark.parametrize("trainer", [GRPOTrainer, DPOTrainer, SFTTrainer, RewardTrainer, DistillationTrainer])
@pytest.mark.parametrize("name", OF_THE_CARD)
def test_overridden_methods_of_the_card_are_unchanged(trainer, name):
    assert list(inspect.signature(getattr(trainer, name)).parameters) == OF_THE_CARD[name]


@pytest.mark.parametrize("name", OF_RESUMING)
def test_overridden_methods_of_resuming_are_unchanged(name):
    for trainer in (GRPOTrainer, DPOTrainer, SFTTrainer, RewardTrainer, DistillationTrainer):
        assert list(inspect.signature(getattr(trainer, name)).parameters) == OF_RESUMING[name]


def test_uploads_in_the_background_are_skipped_and_announced_as_the_card_expects():
    source = inspect.getsource(Trainer._push_from_checkpoint)
    assert "not self.args.hub_always_push and self.push_in_progress is not None and not" in source
    assert source.index("self.callback_handler.on_push_begin(") < source.index("upload_folder(")


@pytest.mark.parametrize("name", CALLED)
def test_trl_method_still_takes_what_we_pass(name):
    assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters)[: len(CALLED[name])] == CALLED[name]


def test_every_override_of_a_private_method_is_pinned():
    classes = [kind for kind in trl_concise.ConciseGRPOTrainer.__mro__ if kind.__module__.startswith("trl_concise.")]
    ours = {name for kind in classes for name in vars(kind)} & set(dir(GRPOTrainer))
    private = {name for name in ours if name.startswith("_") and not name.startswith("__")}
    private -= {name for name in (OF_THE_CARD | OF_RESUMING) if name.startswith("_")}
    private_seams = {name for name in SEAMS if name.startswith("_")}
    assert private - {"_tag_names"} == {*private_seams, "_get_per_token_logps_and_entropies"}


def test_rollouts_are_buffered_as_resuming_expects():
    source = inspect.getsource(GRPOTrainer._prepare_inputs)
    assert "generate_every = self.args.steps_per_generation * self.num_iterations" in source
    assert "self._step % generate_every == 0 or self._buffered_inputs is None" in source
    assert "self._buffered_inputs[self._step % self.args.steps_per_generation]" in source


def test_a_pass_over_a_stream_is_counted_as_resuming_expects():
    assert "max_steps * args.gradient_accumulation_steps" in inspect.getsource(Trainer.set_initial_training_values)
    assert "self.state.epoch = epoch + (step + 1) / steps_in_epoch" in inspect.getsource(Trainer)


def test_reward_functions_are_read_where_one_of_them_is_chosen():
    source = inspect.getsource(GRPOTrainer._calculate_rewards)
    assert "zip(self.reward_funcs, self.reward_processing_classes, self.reward_func_names, strict=True)" in source


def test_sft_seam_unchanged():
    parameters = ["self", "dataset", "processing_class", "args", "packing", "formatting_func", "dataset_name"]
    assert list(inspect.signature(SFTTrainer._prepare_dataset).parameters) == parameters
    ours = set(vars(trl_concise.CFTTrainer)) & set(dir(SFTTrainer))
    private = {name for name in ours if name.startswith("_") and not name.startswith("__")}
    assert private == {"_prepare_dataset", "_tag_names", "_name", "_paper"}


def test_sft_does_not_change_tokens_and_labels():
    source = inspect.getsource(SFTTrainer._prepare_dataset)
    assert 'is_processed = "input_ids" in column_names' in source
    assert 'if "labels" not in column_names' in source
    assert "self._is_vision_dataset = " in inspect.getsource(SFTTrainer.__init__)


DPO_SEAMS = {
    "_prepare_dataset": ["self", "dataset", "processing_class", "args", "dataset_name"],
    "_set_signature_columns_if_needed": ["self"],
    "_compute_loss": ["self", "model", "inputs", "return_outputs"],
}


@pytest.mark.parametrize("name", DPO_SEAMS)
def test_dpo_seam_unchanged(name):
    assert list(inspect.signature(getattr(DPOTrainer, name)).parameters) == DPO_SEAMS[name]


def test_every_override_of_dpo_is_pinned():
    ours = {name for name in set(vars(trl_concise.REDITrainer)) & set(dir(DPOTrainer)) if not name.startswith("__")}
    assert ours == {*DPO_SEAMS, "_tag_names", "_name", "_paper"}


REWARD_SEAMS = {
    "_prepare_dataset": ["self", "dataset", "processing_class", "args", "dataset_name"],
    "_set_signature_columns_if_needed": ["self"],
    "compute_loss": ["self", "model", "inputs", "return_outputs", "num_items_in_batch"],
    "_save": ["self", "output_dir", "state_dict"],
}


def test_reward_trainer_seams():
    for name, parameters in REWARD_SEAMS.items():
        assert list(inspect.signature(getattr(RewardTrainer, name)).parameters) == parameters
    ours = {name for name in set(vars(TDRMTrainer)) & set(dir(RewardTrainer)) if not name.startswith("__")}
    assert ours == {*REWARD_SEAMS, "_tag_names", "_name", "_paper"}
    source = inspect.getsource(RewardTrainer)
    assert 'self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}' in source
    assert "self._total_train_tokens += num_tokens_in_batch // self._tp_size" in source


DISTILLATION_SEAMS = {
    "_get_train_sampler": ["self", "dataset"],
    "_set_signature_columns_if_needed": ["self"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_generate_single_turn": ["self", "prompt_ids", "images", "multimodal_fields", "has_tool_images"],
    "_compute_loss": ["self", "unwrapped_student", "inputs", "num_items_in_batch"],
}


def test_distillation_trainer_seams():
    for name, parameters in DISTILLATION_SEAMS.items():
        assert list(inspect.signature(getattr(DistillationTrainer, name)).parameters) == parameters
    ours = {name for name in set(vars(TrRaTrainer)) & set(dir(DistillationTrainer)) if not name.startswith("__")}
    assert ours == {*DISTILLATION_SEAMS, "_tag_names", "_name", "_paper"}
    source = inspect.getsource(DistillationTrainer)
    assert "backbone = unwrapped_model.base_model" in source  # what FusedTeacher has
    assert "teacher_lm_head = unwrapped_teacher.get_output_embeddings()" in source
    assert "loss_is_scaled_for_ga = True" in source  # the loss over positions divides by the accumulation steps itself


def test_dpo_makes_no_reference_when_it_is_given_one():
    source = inspect.getsource(DPOTrainer.__init__)
    assert "elif is_peft_model(model) and ref_model is None:" in source  # else the adapter would be copied
    assert "hash_module(self.ref_model or self.model) if args.precompute_ref_log_probs else None" in source


def test_generate_returns_the_tool_mask_third():
    source = inspect.getsource(GRPOTrainer._generate)
    assert re.search(r"return prompt_ids, completion_ids, tool_mask, ", source)


def test_reward_logs_wait_where_we_look():
    source = inspect.getsource(GRPOTrainer)
    assert "self._pending_extra_logs = defaultdict(list)" in source
    assert "self._pending_metrics = defaultdict(list)" in source


def test_loss_reads_the_keys_that_token_credit_writes():
    source = inspect.getsource(GRPOTrainer._compute_loss)
    assert 'completion_mask * inputs["tool_mask"]' in source
    assert 'inputs["num_items_in_batch"]' in source
    assert "advantages.dim() == 1" in source


def test_scoring_builds_the_labels_that_token_credit_masks():
    source = inspect.getsource(GRPOTrainer._get_per_token_logps_and_entropies)
    assert "model(**model_inputs, labels=labels, fused_lm_head=True)" in source
    assert "outputs.log_probs[:, -logits_to_keep:]" in source


def test_repeat_sampler_has_what_ours_build_on():
    sampler = RepeatSampler(range(8), mini_repeat_count=2, batch_size=2, repeat_count=3, shuffle=True, seed=1)
    assert (sampler.batch_size, sampler.mini_repeat_count, sampler.repeat_count, sampler.num_samples) == (2, 2, 3, 8)
    assert isinstance(sampler.generator, torch.Generator)


def test_private_trl_names_stay_in_the_trainer():
    methods = (PACKAGE / "methods" / f"{name}.py" for name in ("redi", "redi_rows", "cft"))
    allowed = {PACKAGE / "trainer.py", *methods}
    allowed |= set((PACKAGE / "batch").glob("*.py"))
    for path in set(PACKAGE.rglob("*.py")) - allowed:
        imports = re.findall(r"^(?:from|import) (trl\.\S+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert not [name for name in imports if name != "trl.rewards"], path
    for path in PACKAGE.rglob("*.py"):
        assert "trl.experimental" not in path.read_text(encoding="utf-8"), path
