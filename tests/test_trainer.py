# SPDX-License-Identifier: Apache-2.0
"""The four slots of `ConciseGRPOTrainer`, driven through `trainer.train()`."""

from __future__ import annotations

import logging
import math
from functools import partial
from importlib import resources
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForSequenceClassification
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen3_chat_template

from tests import tiny
from trl_concise import (
    GRESO,
    BudgetSchedule,
    ConciseGRPOConfig,
    ConciseGRPOTrainer,
    GroupReward,
    HAPOConfig,
    HAPOLengthReward,
    HAPOTrainer,
    PromptHistory,
    PromptSelector,
    TokenCredit,
    math_accuracy_reward,
)
from trl_concise.batch.rollouts import completion_lengths, prompt_key
from trl_concise.methods.delethink import Delethink
from trl_concise.methods.mgpo import MGPO


def all_correct(completions, **kwargs):
    return [1.0] * len(completions)


def hapo(model, dataset, output_dir, reward=tiny.even_reward, trainer_kwargs=None, **changes) -> HAPOTrainer:
    return HAPOTrainer(
        model, reward, HAPOConfig(**tiny.settings(output_dir, **changes)), dataset, **(trainer_kwargs or {})
    )


def snapshot(history: PromptHistory) -> dict:
    return history.to_pandas().sort_index().fillna(-1).to_dict("index")


# The order of stages


class Recorder:
    """Parts of all four kinds that write down when they are called and with what."""

    def __init__(self):
        self.calls = calls = []

        class Selector(PromptSelector):
            name = "selector"

            def choose(self, candidates, count, step):
                calls.append(("choose", step))
                return list(range(count))

            def observe(self, rollouts):
                calls.append(("observe selector", rollouts))

        class Budget(BudgetSchedule):
            name = "budget"

            def max_completion_length(self, step):
                calls.append(("budget", step))
                return 3 + step

        class Reward(GroupReward):
            name = "reward"

            def measure(self, local):
                calls.append(("measure", local))
                return {"first": torch.tensor([float(ids[0]) for ids in local.completion_ids])}

            def score(self, rollouts):
                calls.append(("score", rollouts))
                return rollouts.measured["reward"]["first"]

            def observe(self, rollouts):
                calls.append(("observe reward", rollouts))

            def metrics(self):
                return {"seen": 7}

        class Credit(TokenCredit):
            name = "credit"

            def select(self, tokens):
                calls.append(("select", tokens))

            def rows(self, trainer, rollouts, local):
                calls.append(("rows", rollouts))

            def assign(self, rollouts, batch, advantages):
                calls.append(("assign", rollouts))
                keep = torch.zeros_like(batch["completion_mask"], dtype=torch.bool)
                keep[:, :2] = True
                return advantages[:, None].expand(keep.shape), keep

        self.selector, self.budget, self.reward, self.credit = Selector(), Budget(), Reward(), Credit()

    def named(self, name):
        return [value for call, value in self.calls if call == name]


def test_components_are_called_in_order(tiny_model, problems, tmp_path):
    parts = Recorder()
    args = ConciseGRPOConfig(**tiny.settings(tmp_path, max_steps=2, eval_strategy="steps", eval_steps=2))
    trainer = ConciseGRPOTrainer(
        tiny_model,
        [tiny.even_reward, parts.reward],
        args,
        problems,
        problems.select(range(2)),
        prompt_selector=parts.selector,
        token_credit=parts.credit,
        budget_schedule=parts.budget,
    )
    trainer.train()

    training_step = ["budget", "select", "measure", "score", "observe reward", "observe selector", "rows", "assign"]
    in_evaluation = ["measure", "score"]
    names = [name for name, _ in parts.calls if name != "choose"]
    assert names == training_step * 2 + in_evaluation
    # The loader reads one batch ahead: the second choice is made before the first step is done.
    assert parts.named("choose")[:2] == [0, 0]
    assert parts.named("budget") == [0, 1]

    first, second, evaluation = parts.named("score")
    assert (first.step, second.step, first.training, evaluation.training) == (0, 1, True, False)
    assert len(first) == 8 and first.num_generations == 4 and first.local == slice(0, 8)
    assert first.prompt_keys[:4] == (first.prompt_keys[0],) * 4 and len(set(first.prompt_keys)) == 2
    assert set(first.prompt_keys) <= {prompt_key(row) for row in problems}
    assert set(first.rewards) == {"even_reward"}
    assert torch.equal(first.correct, first.rewards["even_reward"])
    assert set(parts.named("observe reward")[0].rewards) == {"even_reward", "Reward"}

    # A budget limits training completions only, and leaves the loss normaliser alone.
    lengths = [max(len(ids) for ids in local.completion_ids) for local in parts.named("measure")]
    assert lengths == [3, 4, 8]
    assert trainer.max_completion_length == trainer.generation_kwargs["max_new_tokens"] == 8

    # The reward column, weighted and logged by TRL, is the one that was scored.
    logged = trainer.state.log_history[0]
    assert logged["rewards/Reward/mean"] == pytest.approx(parts.named("score")[0].measured["reward"]["first"].mean())
    assert logged["reward/seen"] == 7


def test_lengths_and_truncation_are_those_of_the_completion(tiny_model, problems, tmp_path):
    parts = Recorder()
    rollout = tiny.rollouts_of([[5, 4, 3, 2, 1, 1, 1, 6]])

    def cut_last(prompts, trainer):
        output = rollout(prompts, trainer)
        output["completion_ids"][-1].pop()  # no EOS: truncated
        return output

    args = ConciseGRPOConfig(**tiny.settings(tmp_path, max_steps=1))
    ConciseGRPOTrainer(tiny_model, [tiny.even_reward, parts.reward], args, problems, rollout_func=cut_last).train()
    batch = parts.named("score")[0]
    assert batch.lengths.tolist() == [5, 4, 3, 2, 1, 1, 1, 6]
    assert batch.truncated.tolist() == [False] * 7 + [True]


def test_only_kept_tokens_carry_the_loss(tiny_model, problems, tmp_path):
    """Advantages (b, T) and a keep mask: what is not kept gets no gradient, and no loss divides by it."""
    seen = []

    class Spy(ConciseGRPOTrainer):
        def _compute_loss(self, model, inputs):
            seen.append({name: inputs[name].clone() for name in ("advantages", "tool_mask", "num_items_in_batch")})
            return super()._compute_loss(model, inputs)

    parts = Recorder()
    args = ConciseGRPOConfig(**tiny.settings(tmp_path, max_steps=1))
    trainer = Spy(tiny_model, [tiny.even_reward], args, problems, token_credit=[parts.credit])
    trainer.train()
    assert seen[0]["advantages"].shape == seen[0]["tool_mask"].shape
    assert seen[0]["tool_mask"][:, 2:].sum() == 0
    assert seen[0]["num_items_in_batch"] == seen[0]["tool_mask"].sum()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("infinite", r"The reward functions \['Bad'\] returned an infinite reward"),
        ("reward", r"Bad\.score returned the shape \(3,\) for 8 completions\. Return a tensor of the shape \(8,\)"),
        (
            "measure",
            r"Bad\.measure returned the shape \(3,\) as 'x' for 8 completions\. Return a tensor of the shape \(8,\)",
        ),
        ("list", r"Bad\.score returned a list for 8 completions\. Return a tensor of the shape \(8,\)"),
        ("credit", r"Bad\.assign returned advantages \(3,\)"),
        ("budget", r"Bad allows 0 tokens at step 0"),
    ],
)
def test_a_component_that_returns_an_invalid_value_is_named(part, message, tiny_model, problems, tmp_path):
    rewards, slots = [tiny.even_reward], {}
    if part in ("infinite", "reward", "measure", "list"):

        class Bad(GroupReward):
            name = "bad"

            def measure(self, local):
                return {"x": torch.zeros(3)} if part == "measure" else {}

            def score(self, rollouts):
                values = {"infinite": torch.full((len(rollouts),), -math.inf), "list": [0.0] * len(rollouts)}
                return values.get(part, torch.zeros(3))

        rewards.append(Bad())
    elif part == "credit":

        class Bad(TokenCredit):
            name = "bad"

            def assign(self, rollouts, batch, advantages):
                return advantages[:3], None

        slots["token_credit"] = Bad()
    else:

        class Bad(BudgetSchedule):
            name = "bad"

            def max_completion_length(self, step):
                return 0

        slots["budget_schedule"] = Bad()
    args = ConciseGRPOConfig(**tiny.settings(tmp_path))
    with pytest.raises(ValueError, match=message):
        ConciseGRPOTrainer(tiny_model, rewards, args, problems, **slots).train()


# The generation limit


class Fixed(BudgetSchedule):
    name = "fixed"

    def __init__(self, tokens, longest=None):
        self.tokens = tokens
        self.longest = longest

    def max_completion_length(self, step):
        return self.tokens


class VLLMStandIn:
    """In place of TRL's `VLLMGeneration`: writes as many tokens as it was told, and notes the limit."""

    def __init__(self, max_completion_length, generation_kwargs, **settings):
        self.max_completion_length = max_completion_length
        self.generation_kwargs = generation_kwargs or {}
        self.limits = []
        self.prompts = []

    def sync_weights(self):
        pass

    def generate(self, prompts, images, num_generations, profiler):
        self.limits.append((self.max_completion_length, self.generation_kwargs.get("max_tokens")))
        self.prompts.append(prompts)
        length = self.generation_kwargs.get("max_tokens", self.max_completion_length)
        completions = [[10 + i] * length for i in range(len(prompts))]
        return prompts, completions, [[[-1.0]] * length for _ in prompts], None


def budgeted(model, dataset, output_dir, schedule, **changes) -> ConciseGRPOTrainer:
    args = ConciseGRPOConfig(**tiny.settings(output_dir, eval_strategy="steps", eval_steps=1, max_steps=1, **changes))
    return ConciseGRPOTrainer(
        model, [tiny.even_reward], args, dataset, dataset.select(range(2)), budget_schedule=schedule
    )


@pytest.mark.parametrize("generation_kwargs", [None, {"max_tokens": 7}])
def test_a_budget_reaches_vllm(generation_kwargs, tiny_model, problems, tmp_path, monkeypatch):
    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", VLLMStandIn)
    changes = {"use_vllm": True, "vllm_mode": "colocate", "generation_kwargs": generation_kwargs}
    trainer = budgeted(tiny_model, problems, tmp_path, Fixed(3, longest=3), **changes)
    trainer.train()
    own = generation_kwargs["max_tokens"] if generation_kwargs else None
    assert trainer.vllm_generation.limits == [(3, 3 if own else None), (8, own)]  # training, evaluation
    assert trainer.state.log_history[0]["completions/max_length"] == 3


def test_a_selection_reaches_vllm(tiny_model, problems, tmp_path, monkeypatch):
    class Last(PromptSelector):
        name = "last"
        chosen = []

        def choose(self, candidates, count, step):
            self.chosen += [candidate["prompt"][0]["content"] for candidate in candidates[-count:]]
            return list(range(len(candidates)))[-count:]

    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", VLLMStandIn)
    args = ConciseGRPOConfig(**tiny.settings(tmp_path, use_vllm=True, vllm_mode="colocate"))
    trainer = ConciseGRPOTrainer(tiny_model, [tiny.even_reward], args, problems, prompt_selector=Last())
    trainer.train()
    generated = [trainer.processing_class.decode(ids) for batch in trainer.vllm_generation.prompts for ids in batch]
    assert len(generated) == 16  # two steps of two groups of four
    for row, text in enumerate(generated):
        assert Last.chosen[row // 4] in text


@pytest.mark.parametrize(("context", "fits"), [(None, False), (4097, True), (4096, False)])
def test_the_largest_budget_must_fit_into_vllms_context(context, fits, tiny_model, problems, tmp_path, monkeypatch):
    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", VLLMStandIn)
    changes = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": context}
    if fits:
        budgeted(tiny_model, problems, tmp_path, Fixed(3, longest=4096), **changes)
        return
    with pytest.raises(ValueError, match=r"Fixed allows up to 4096 completion tokens, but vLLM's context holds 4096"):
        budgeted(tiny_model, problems, tmp_path, Fixed(3, longest=4096), **changes)
    args = ConciseGRPOConfig(**tiny.settings(tmp_path, max_completion_length=12, loss_type="grpo", **changes))
    slots = {"budget_schedule": Fixed(3, longest=4096), "rollout": Delethink(8, keep_head=1)}
    ConciseGRPOTrainer(tiny_model, tiny.even_reward, args, problems, **slots)  # a context holds a chunk only


def test_a_budget_does_not_change_the_users_limit(tiny_model, problems, tmp_path):
    generation_kwargs = {"max_new_tokens": 5, "min_new_tokens": 3}
    trainer = budgeted(tiny_model, problems, tmp_path, Fixed(3), generation_kwargs=generation_kwargs)
    trainer.train()
    train, evaluation = trainer.state.log_history[:2]
    assert (train["completions/max_length"], evaluation["eval_completions/max_length"]) == (3, 5)
    assert trainer.generation_config.max_new_tokens == 5 and trainer.max_completion_length == 8


# History semantics


def test_score_then_observe_and_evaluation_only_reads(tiny_model, problems, tmp_path):
    rollout = tiny.rollouts_of([[4] * 4 + [6] * 4, [8] * 8])  # training, then evaluation

    trainer = hapo(
        tiny_model,
        problems.select(range(2)),
        tmp_path,
        all_correct,
        {"rollout_func": rollout, "eval_dataset": problems.select(range(2))},
        max_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        shuffle_dataset=False,
    )
    trainer.train()
    keys = [prompt_key(row) for row in problems.select(range(2))]
    assert trainer.history.shortest(keys).tolist() == [4, 6]  # not 8, and one visit only
    assert trainer.history.visits(keys).tolist() == [1, 1]
    train, evaluation = trainer.state.log_history[0], trainer.state.log_history[1]
    assert train["rewards/HAPOLengthReward/mean"] == 0  # nothing was known yet
    # In evaluation 8 tokens stand against 4 and 6: the floor, and cos(pi / 2 * 8 / 6).
    expected = (-0.7 + math.cos(math.pi / 2 * 8 / 6)) / 2
    assert evaluation["eval_rewards/HAPOLengthReward/mean"] == pytest.approx(expected, abs=1e-6)


def test_unknown_correctness_leaves_no_trace(tiny_model, problems, tmp_path):
    def unreadable(completions, **kwargs):
        return [None] * len(completions)

    trainer = hapo(tiny_model, problems, tmp_path, unreadable, max_steps=1)
    trainer.train()
    assert len(trainer.history) == 0
    assert trainer.state.log_history[0]["rewards/HAPOLengthReward/mean"] is None  # NaN: no reward at all


def test_the_named_reward_decides_correctness(tiny_model, problems, tmp_path):
    def style(completions, **kwargs):
        return [1.0] * len(completions)

    def wrong(completions, **kwargs):
        return [0.0] * len(completions)

    trainer = hapo(tiny_model, problems, tmp_path, [style, wrong], correctness="wrong", reward_weights=[0.1, 1.0])
    trainer.train()
    assert trainer.history.to_pandas()["correct"].sum() == 0 and len(trainer.history) == 4
    assert trainer.reward_weights.tolist() == pytest.approx([0.1, 1.0, 1.0])


def test_only_tokens_written_by_the_model_count(tiny_model, problems, tmp_path):
    assert completion_lengths([[5, 6, 7, 8, 2]], [[1, 0, 0, 1, 1]], {2, 0}) == [2]
    assert completion_lengths([[5, 6], [2], [5, 2, 0]], None, {2, 0}) == [2, 0, 1]
    rollout = tiny.rollouts_of([[6] * 8])

    def with_tool_output(prompts, trainer):
        output = rollout(prompts, trainer)
        output["env_mask"] = [[1, 1, 0, 0, 0, 1, 1]] * len(prompts)
        return output

    trainer = hapo(tiny_model, problems, tmp_path, all_correct, {"rollout_func": with_tool_output}, max_steps=1)
    trainer.train()
    assert trainer.history.to_pandas()["shortest"].unique().tolist() == [3]


# What else GRPOTrainer can do


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("lora", [False, True])
def test_training_moves_the_weights(beta, lora, tiny_model, problems, tmp_path):
    peft_config = LoraConfig(target_modules=["q_proj", "v_proj"]) if lora else None
    trainer = hapo(tiny_model, problems, tmp_path, trainer_kwargs={"peft_config": peft_config}, beta=beta, max_steps=3)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    changed = [name for name, p in before.items() if not torch.equal(p, after[name])]
    assert changed == [name for name in before if not lora or "lora" in name]
    assert ("kl" in trainer.state.log_history[0]) == (beta > 0)
    assert len(trainer.history) > 0


def test_an_async_reward_can_say_what_is_correct(tiny_model, problems, tmp_path):
    async def judge(completions, **kwargs):
        return [1.0] * len(completions)

    trainer = hapo(tiny_model, problems, tmp_path, judge, max_steps=1)
    trainer.train()
    assert (trainer.history.to_pandas()["correct"] == 4).all()


def test_a_reward_model_can_say_what_is_correct(tiny_model, problems, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config = Qwen2Config.from_pretrained(tiny_model, num_labels=1)
    config.pad_token_id = tokenizer.pad_token_id
    judge = Qwen2ForSequenceClassification(config)
    judge.config._name_or_path = "judge"
    judge.score.weight.data.zero_()  # 0 everywhere: below 0.5, all wrong
    trainer = hapo(tiny_model, problems, tmp_path, judge, {"reward_processing_classes": tokenizer}, max_steps=1)
    trainer.train()
    assert trainer.state.log_history[0]["rewards/judge/mean"] == 0
    assert trainer.history.to_pandas()["correct"].sum() == 0 and len(trainer.history) == 2


def test_plain_prompts_and_streaming(tiny_model, problems, tmp_path):
    plain = problems.map(lambda row: {"prompt": row["prompt"][0]["content"]})
    trainer = hapo(tiny_model, plain.to_iterable_dataset(), tmp_path, all_correct)
    trainer.train()
    assert set(trainer.history.to_pandas().index) <= {prompt_key(row) for row in plain}
    assert len(trainer.history) == 4


def test_our_answer_check_is_the_correctness(tiny_model, problems, tmp_path):
    trainer = hapo(tiny_model, problems, tmp_path, math_accuracy_reward, max_steps=1)
    trainer.train()
    assert trainer.state.log_history[0]["rewards/math_accuracy_reward/mean"] == 0  # a random model is never right
    assert len(trainer.history) == 2


def test_hapo_combines_with_other_components(tiny_model, problems, tmp_path):
    parts = Recorder()
    args = ConciseGRPOConfig(**tiny.settings(tmp_path, reward_weights=[1.0, 0.5, 0.0]))
    trainer = ConciseGRPOTrainer(
        tiny_model,
        [tiny.even_reward, HAPOLengthReward(), parts.reward],
        args,
        problems,
        token_credit=parts.credit,
    )
    trainer.train()
    assert trainer.reward_weights.tolist() == [1.0, 0.5, 0.0]
    assert trainer.history is trainer.components[0].history and len(trainer.history) == 4


# The caller's config


def test_the_callers_config_is_never_changed(tiny_model, problems, tmp_path):
    args = HAPOConfig(**tiny.settings(tmp_path, reward_weights=[2.0], model_init_kwargs={"dtype": "float32"}))
    before = repr(vars(args))
    trainer = HAPOTrainer(tiny_model, tiny.even_reward, args, problems.to_iterable_dataset())
    assert repr(vars(args)) == before
    assert trainer.args is not args and trainer.args.reward_weights == [2.0, 1.0]


def test_a_plain_config_takes_the_methods_defaults(tiny_model, problems, tmp_path):
    args = GRPOConfig(**tiny.settings(tmp_path, max_steps=1))
    trainer = HAPOTrainer(tiny_model, tiny.even_reward, args, problems)
    assert isinstance(trainer.args, HAPOConfig) and trainer.args.length_reward_floor == -0.7
    assert trainer.args.num_generations == 4 and not isinstance(args, ConciseGRPOConfig)
    trainer.train()


# Save and resume


def test_a_resumed_run_has_the_history_of_the_uninterrupted_one(tiny_model, problems, tmp_path):
    changes = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = hapo(tiny_model, problems, tmp_path / "whole", **changes)
    whole.train()
    resumed = hapo(tiny_model, problems, tmp_path / "resumed", **changes)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert snapshot(resumed.history) == snapshot(whole.history)
    assert tiny.losses(resumed) == tiny.losses(whole)
    keys = [key for key in whole.state.log_history[3] if key.startswith("hapo/")]
    assert keys and all(resumed.state.log_history[3][key] == whole.state.log_history[3][key] for key in keys)


def test_state_is_on_disk_before_the_push(tiny_model, problems, tmp_path):
    found = []

    class Pushing(HAPOTrainer):
        def _push_from_checkpoint(self, checkpoint_folder):  # what TRL calls inside the save; no Hub here
            found.extend(sorted(path.name for path in Path(checkpoint_folder, "concise_state").iterdir()))

    args = HAPOConfig(
        **tiny.settings(tmp_path, max_steps=1, save_strategy="steps", save_steps=1, hub_model_id="user/model")
    )
    trainer = Pushing(tiny_model, tiny.even_reward, args, problems)
    trainer.args.push_to_hub = True  # after the constructor, which would create the repository
    trainer.train()
    assert found == ["hapo.safetensors", "state.json"]


def test_resuming_a_plain_grpo_run_starts_with_an_empty_history(tiny_model, problems, tmp_path, caplog):
    changes = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    plain = GRPOTrainer(
        tiny_model, tiny.even_reward, GRPOConfig(**tiny.settings(tmp_path / "plain", **changes)), problems
    )
    plain.train()
    trainer = hapo(tiny_model, problems, tmp_path / "hapo", **changes)
    with caplog.at_level(logging.WARNING, logger="trl_concise"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "plain" / "checkpoint-1"))
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("trl_concise")]
    assert (
        len(warnings) == 1
        and "written by a trainer without components, or with save_only_model=True: ['hapo'] start with an empty"
        in warnings[0]
    )
    assert trainer.history.to_pandas()["visits"].sum() == 2  # the second step's two prompts


def test_a_damaged_history_stops_the_resume(tiny_model, problems, tmp_path):
    changes = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    hapo(tiny_model, problems, tmp_path, **changes).train()
    path = tmp_path / "checkpoint-1" / "concise_state" / "hapo.safetensors"
    path.write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"hapo\.safetensors is damaged"):
        hapo(tiny_model, problems, tmp_path, **changes).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_save_only_model_is_warned_about(tiny_model, problems, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="trl_concise"):
        hapo(tiny_model, problems, tmp_path, save_only_model=True)
    assert "save_only_model=True: checkpoints will contain neither the optimizer nor the state" in caplog.text


# Bad input


class Group(GroupReward):
    name = "group"

    def score(self, rollouts):
        return rollouts.correct


class Slashed(Group):
    name = "my/part"


class Unsaved(Group):
    def state_dict(self):
        return {"seen": {"a"}}


def test_a_plain_grpo_trainer_cannot_use_a_group_reward(tiny_model, problems, tmp_path):
    args = GRPOConfig(**tiny.settings(tmp_path))
    trainer = GRPOTrainer(tiny_model, [tiny.even_reward, HAPOLengthReward()], args, problems)
    with pytest.raises(TypeError, match="HAPOLengthReward scores whole groups: pass it to a ConciseGRPOTrainer"):
        trainer.train()


def abstain(completions, n, **kwargs):
    return [None] * len(completions)


def needs_solution(completions, solution, **kwargs):
    return [0.0] * len(completions)


@pytest.mark.parametrize(
    ("rewards", "changes", "slots", "error", "message"),
    [
        ([tiny.even_reward], {"remove_unused_columns": True}, {}, ValueError, "Leave it False"),
        (
            [tiny.even_reward],
            {"correctness": "accuracy"},
            {},
            ValueError,
            r"is not a reward function. The functions are \['even",
        ),
        ([Group()], {}, {}, ValueError, r"\['Group'\] build on correctness: put a reward function"),
        ([tiny.even_reward, Group(), Group()], {}, {}, ValueError, "Group and Group have the same name, 'group'"),
        ([tiny.even_reward, Slashed()], {}, {}, ValueError, "The name of Slashed is 'my/part'"),
        ([tiny.even_reward, Unsaved()], {}, {}, ValueError, "`group`: state_dict.*'seen'.* is a set"),
        ([lambda x: x, lambda x: x, Group()], {}, {}, ValueError, "Define each with its own `def`"),
        (
            [partial(abstain, n=1), partial(abstain, n=2), Group()],
            {},
            {},
            ValueError,
            "a `functools.partial` has the name",
        ),
        ([tiny.even_reward], {}, {"prompt_selector": Group()}, TypeError, "prompt_selector= takes a PromptSelector"),
        ([tiny.even_reward, Group], {}, {}, TypeError, r"Group\(\), not the class"),
        ([tiny.even_reward], {}, {"prompt_selector": GRESO}, TypeError, r"GRESO\(\), not the class"),
        ([tiny.even_reward], {}, {"token_credit": [Group()]}, TypeError, "token_credit= takes a TokenCredit"),
        ([tiny.even_reward], {}, {"budget": Group()}, TypeError, "unexpected keyword argument 'budget'"),
    ],
)
def test_bad_arguments(rewards, changes, slots, error, message, tiny_model, problems, tmp_path):
    args = ConciseGRPOConfig(**tiny.settings(tmp_path, **changes))
    with pytest.raises(error, match=message):
        ConciseGRPOTrainer(tiny_model, rewards, args, problems, **slots)


def test_bad_datasets(tiny_model, problems, tmp_path):
    with pytest.raises(ValueError, match=r"'needs_solution' needs the columns \['solution'\], but the train dataset"):
        hapo(tiny_model, problems.remove_columns("solution"), tmp_path, needs_solution)
    with pytest.raises(ValueError, match=r"'needs_solution' needs the columns \['solution'\], but the hard dataset"):
        args = HAPOConfig(**tiny.settings(tmp_path))
        HAPOTrainer(tiny_model, needs_solution, args, problems, {"hard": problems.remove_columns("solution")})
    with pytest.raises(ValueError, match=r"needs a `prompt` column; it has \['question'"):
        hapo(tiny_model, problems.rename_column("prompt", "question"), tmp_path)
    with pytest.raises(ValueError, match="Prompts with images are identified by a `prompt_id` column"):
        hapo(tiny_model, problems.add_column("image", [None] * 16), tmp_path)
    with pytest.raises(ValueError, match="Load it as a Dataset"):
        ConciseGRPOTrainer(
            tiny_model,
            [tiny.even_reward],
            ConciseGRPOConfig(**tiny.settings(tmp_path)),
            problems.to_iterable_dataset(),
            prompt_selector=Recorder().selector,
        )


class Rows(torch.utils.data.Dataset):
    """A PyTorch dataset."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


@pytest.mark.parametrize("kind", [list, lambda rows: Rows(list(rows)), lambda rows: {"a": list(rows), "b": rows}])
def test_datasets_for_evaluation_are_those_that_trl_accepts(kind, tiny_model, problems, tmp_path):
    changes = {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    evaluated = kind(problems.select(range(2)))
    trainer = hapo(tiny_model, problems, tmp_path, trainer_kwargs={"eval_dataset": evaluated}, **changes)
    trainer.train()
    names = ["eval_a_accuracy", "eval_b_accuracy"] if isinstance(evaluated, dict) else ["eval_accuracy"]
    assert all(any(name in entry for entry in trainer.state.log_history) for name in names)
    assert trainer.evaluate({"outer": {"inner": list(problems.select(range(2)))}})


@pytest.mark.parametrize(
    ("evaluated", "message"),
    [
        ([], "The eval dataset is empty"),
        ({"hard": Rows([{"question": "1?"}])}, r"The hard dataset needs a `prompt` column; it has \['question'\]"),
        (
            {"outer": {"inner": [{"prompt": "1?"}]}},
            r"needs the columns \['solution'\], but the inner dataset has only",
        ),
    ],
)
def test_other_datasets_for_evaluation_are_checked_too(evaluated, message, tiny_model, problems, tmp_path):
    with pytest.raises(ValueError, match=message):
        hapo(tiny_model, problems, tmp_path, needs_solution, {"eval_dataset": evaluated})


def test_an_environment_without_a_dataset_has_no_prompt_keys(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="Pass a train_dataset with a `prompt_id` column"):
        hapo(tiny_model, None, tmp_path, trainer_kwargs={"environment_factory": object})


class Solved:
    """An environment that owns the reward."""

    def reset(self, **kwargs) -> None:
        return None

    def get_reward(self) -> float:
        return 1.0


def test_the_reward_of_an_environment_says_what_is_correct(tiny_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = qwen3_chat_template  # of a model that calls tools
    dataset = Dataset.from_list([{"prompt": [{"role": "user", "content": f"{i}?"}]} for i in range(4)])
    trainer = ConciseGRPOTrainer(
        tiny_model,
        None,
        ConciseGRPOConfig(**tiny.settings(tmp_path, max_steps=1)),
        dataset,
        processing_class=tokenizer,
        environment_factory=Solved,
        advantage=MGPO(),
    )
    trainer.train()
    assert trainer.state.log_history[0]["accuracy"] == 1


def test_a_reward_of_the_wrong_length_stops_the_run(tiny_model, problems, tmp_path):
    def short(completions, **kwargs):
        return [1.0]

    with pytest.raises(ValueError, match="'short' returned 1 rewards, but 8 were expected"):
        hapo(tiny_model, problems, tmp_path, short).train()


def test_weights_cover_the_users_functions_only(tiny_model, problems, tmp_path):
    with pytest.raises(ValueError, match="got 2 weights for 1 functions. HAPOTrainer adds its own column and weight"):
        hapo(tiny_model, problems, tmp_path, reward_weights=[1.0, 1.0])


def test_another_methods_config_is_refused(tiny_model, problems, tmp_path):
    class OtherConfig(ConciseGRPOConfig):
        pass

    with pytest.raises(
        TypeError, match="HAPOTrainer takes a HAPOConfig or a GRPOConfig; the settings of a OtherConfig"
    ):
        HAPOTrainer(tiny_model, tiny.even_reward, OtherConfig(**tiny.settings(tmp_path)), problems)
    with pytest.raises(TypeError, match="HAPOTrainer takes a HAPOConfig or a GRPOConfig, got"):
        HAPOTrainer(tiny_model, tiny.even_reward, {"output_dir": "x"}, problems)


def test_a_row_without_a_prompt_id_among_images_is_refused():
    with pytest.raises(ValueError, match="prompt_id"):
        prompt_key({"prompt": "x", "image": object()})


def test_the_card_cites_hapo(tiny_model, problems, tmp_path):
    trainer = hapo(tiny_model, problems, tmp_path)
    trainer.create_model_card(model_name="demo")
    card = (tmp_path / "README.md").read_text()
    assert "2505.11225" in card and "HAPO" in card and "DeepSeekMath" not in card
    assert {"trl", "grpo", "trl-concise", "hapo"} <= set(HAPOTrainer._tag_names)


def test_datasets_of_one_row_per_group_fit(tiny_model, tmp_path):
    one = Dataset.from_list([{"prompt": "1 + 1?", "prompt_id": "only"}])
    trainer = hapo(tiny_model, one, tmp_path, all_correct, per_device_train_batch_size=4)
    trainer.train()
    assert trainer.history.visits(["only"]).item() == 2


def test_tool_output_does_not_count_as_length(tiny_model, problems, tmp_path):
    """TRL's own tool loop: the model calls a tool, reads its output, and answers."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = resources.files("trl").joinpath("chat_templates/qwen3.jinja").read_text()
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call><|im_end|>'
    turns = [tokenizer(text)["input_ids"] for text in (call, "It is 3.<|im_end|>")]

    def add(a: int, b: int) -> int:
        """
        Add two numbers.

        Args:
            a: One number.
            b: Another number.
        """
        return a + b

    class Scripted(HAPOTrainer):
        def _generate_single_turn(self, prompt_ids, *args, **kwargs):
            turn = turns[self.turn % 2]
            self.turn += 1
            return [list(turn) for _ in prompt_ids], None

    args = HAPOConfig(**tiny.settings(tmp_path, max_steps=1, max_completion_length=512))
    trainer = Scripted(tiny_model, all_correct, args, problems, processing_class=tokenizer, tools=[add])
    trainer.turn = 0
    trainer.train()
    assert trainer.state.log_history[0]["tools/call_frequency"] == 1
    written = len(turns[0]) + len(turns[1]) - 1  # both turns, without the EOS that ends the completion
    assert trainer.history.to_pandas()["shortest"].unique().tolist() == [written]
    assert trainer.state.log_history[0]["completions/mean_length"] == written + 1


def test_without_a_completion_limit_it_trains_as_grpo_does(tiny_model, problems, tmp_path):
    def losses(trainer_class, config_class):
        # None leaves the limit to the model's generation config, whose own is short here.
        args = config_class(**tiny.settings(tmp_path, max_completion_length=None, max_steps=1))
        trainer = trainer_class(tiny_model, tiny.even_reward, args, problems)
        trainer.generation_config.max_length = 40
        trainer.train()
        return tiny.losses(trainer)

    assert losses(ConciseGRPOTrainer, ConciseGRPOConfig) == losses(GRPOTrainer, GRPOConfig)
