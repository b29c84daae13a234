# SPDX-License-Identifier: Apache-2.0
"""TDRM: targets and loss, training, the reward function. Golden values are computed by hand from the formulas."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from datasets import Dataset, IterableDataset
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from torch.nn.functional import binary_cross_entropy
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, RewardConfig
from trl.chat_template_utils import deepseek_r1_distill_chat_template

from tests import tiny
from tests.distributed import tdrm as distributed
from trl_concise import HAPOConfig, HAPOTrainer, demo
from trl_concise.methods.tdrm import (
    DataCollatorForTDRM,
    ProcessReward,
    TDRMConfig,
    TDRMTrainer,
    smoothness,
    td_loss,
    td_targets,
)
from trl_concise.methods.tdrm_reward import encode_states, load_process_model, text_before_answer


tensor = torch.tensor
PROMPT = [{"role": "user", "content": "What is 1 + 1?"}]
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"]}


def train(model, output_dir, dataset=None, trainer_kwargs=None, resume=None, **changes) -> TDRMTrainer:
    args = TDRMConfig(**distributed.settings(output_dir, **changes))
    trainer = TDRMTrainer(model, args, train_dataset=dataset or distributed.rows(), **(trainer_kwargs or {}))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


# The equations


@pytest.mark.parametrize(
    ("rewards", "mask", "expected"),
    [
        ([0.2], 1, 0.6),
        ([0.9], 1, 1.0),  # clamped
        ([-0.9], 1, 0.0),
        ([0.1, 0.2], 1, 0.58),
        ([0.1, 0.2], 0, 0.26),
        ([0.1, 0.2, 0.3], 1, 0.708),
        ([0.1, 0.2, 0.3], 0, 0.452),
    ],
)
def test_golden_targets(rewards, mask, expected):
    assert td_targets(tensor([rewards]), tensor([0.5]), tensor([mask])).item() == pytest.approx(expected, abs=1e-6)


def test_golden_losses():
    target = td_targets(tensor([[0.4999]]), tensor([0.4997]), tensor([1]))
    assert target.item() == pytest.approx(0.89966, abs=1e-6)  # the project's site prints 0.8997
    loss = td_loss(tensor([0.4999]).logit(), target, tensor([0]), tensor([0]))
    assert loss.item() == pytest.approx(0.693307, abs=1e-6)
    loss = td_loss(tensor([0.8]).logit(), tensor([0.6]), tensor([1]), tensor([0]))
    assert loss.item() == pytest.approx(0.777661, abs=1e-6)


units = st.floats(0, 1, width=32)


@given(
    st.lists(st.tuples(st.floats(-2, 2, width=32), units), min_size=1, max_size=8),
    st.integers(1, 4),
    units,
    st.booleans(),
)
def test_targets_of_a_completion_equal_a_plain_loop(path, n, gamma, label):
    """Every state of a completion, its rewards, and the value n states later, against the recursion written out."""
    rewards, values = [reward for reward, _ in path], [value for _, value in path]
    count = len(path)
    expected = []
    for t in range(count):
        total = 0.0
        for k in range(n):
            total += gamma**k * rewards[t + k] if t + k < count else 0.0
        if t + n < count:
            total += gamma**n * values[t + n]
        expected.append(min(max(total, 0.0), 1.0))

    padded = [*rewards, *[0.0] * n]
    windows = tensor([padded[t : t + n] for t in range(count)])
    later = tensor([values[t + n] if t + n < count else math.nan for t in range(count)])
    exists = tensor([float(t + n < count) for t in range(count)])
    targets = td_targets(windows, later, exists, gamma=gamma)
    assert targets.tolist() == pytest.approx(expected, abs=1e-5)

    done = tensor([float(t == count - 1) for t in range(count)])
    logits = tensor(values).clamp(0.01, 0.99).logit()
    losses = td_loss(logits, targets, torch.full((count,), float(label)), done, terminal_weight=2.0)
    wanted = tensor([*targets.tolist()[:-1], float(label)])
    plain = binary_cross_entropy(logits.sigmoid(), wanted, reduction="none")
    plain[-1] *= 2
    torch.testing.assert_close(losses, plain, atol=1e-5, rtol=1e-4)


@given(st.lists(units, min_size=4, max_size=4), st.permutations(range(4)))
def test_masks_are_per_example(values, order):
    rewards, mask = tensor([[0.1, 0.2], [0.0, 0.3], [0.2, 0.2], [0.1, 0.1]]), tensor([1, 0, 0, 1])
    done, labels, logits = tensor([0, 0, 1, 0]), tensor([1, 0, 1, 0]), tensor([0.3, -0.2, 1.0, 0.5])
    order = tensor(order)

    def losses(rows):
        targets = td_targets(rewards[rows], tensor(values)[rows], mask[rows])
        return td_loss(logits[rows], targets, labels[rows], done[rows])

    torch.testing.assert_close(losses(order), losses(torch.arange(4))[order])
    changed = torch.where(mask.bool(), tensor(values), math.nan)  # without influence where the state does not exist
    assert torch.equal(td_targets(rewards, changed, mask), td_targets(rewards, tensor(values), mask))


@given(units, units, units)
def test_two_steps_equal_one_if_the_value_is_consistent(first, second, later):
    value = second + 0.8 * later
    one = 0.8 * value + 0.1 * first
    two = td_targets(tensor([[0.1 * first, second]]), tensor([later]), tensor([1]))
    assert two.item() == pytest.approx(min(one, 1.0), abs=1e-5)


def test_no_gradient_reaches_the_bootstrap_value():
    values = tensor([0.5], requires_grad=True)
    logits = tensor([0.1], requires_grad=True)
    td_loss(logits, td_targets(tensor([[0.2]]), values, tensor([1])), tensor([1]), tensor([0])).sum().backward()
    assert values.grad is None and logits.grad.item() == pytest.approx(torch.tensor(0.1).sigmoid().item() - 0.6)


def test_a_saturated_value_has_a_gradient():
    logits = tensor([60.0], requires_grad=True)
    td_loss(logits, tensor([0.0]), tensor([0]), tensor([1])).sum().backward()
    assert logits.grad.item() == pytest.approx(1.0)


def test_smoothness():
    assert smoothness([[0.5, 0.75, 0.5], [0.4]]) == 0.25
    assert smoothness([[0.5, 0.75, 0.5]], [[1.0, 5.0]]) == pytest.approx((0.25 + 0.05) / 2)
    assert math.isnan(smoothness([[0.5]]))
    for distances in ([[1.0]], [[1.0, 0.0]], [[1.0, 1.0], []]):
        with pytest.raises(ValueError, match="one positive distance for each pair"):
            smoothness([[0.5, 0.75, 0.5]], distances)


# Training


def test_rows_become_states(tiny_model, tmp_path):
    trainer = train(tiny_model, tmp_path, max_steps=1)
    rows, tokenizer = trainer.train_dataset, trainer.processing_class
    assert len(rows) == sum(len(row["completions"]) for row in distributed.rows())
    third = [row for row in rows if "What is 3 + 3?" in tokenizer.decode(row["state_ids"])]
    assert [row["done"] for row in third] == [0, 0, 0, 1] and [row["mask"] for row in third] == [1, 1, 0, 0]
    assert [row["rewards"] for row in third] == [
        pytest.approx(window) for window in ([1 / 4, 1 / 5], [1 / 5, 1 / 6], [1 / 6, 1 / 7], [1 / 7, 0])
    ]
    assert third[0]["bootstrap_ids"] == third[2]["state_ids"] and third[2]["bootstrap_ids"] == []
    text = tokenizer.decode(third[1]["state_ids"])
    assert (
        text == "<|im_start|>user\nWhat is 3 + 3?<|im_end|>\n<|im_start|>assistant\n3 + 0 = 3\n\n3 + 1 = 4<|im_end|>\n"
    )
    logged = trainer.state.log_history[0]
    assert {"tdrm/value", "tdrm/target", "tdrm/accuracy", "tdrm/smoothness", "num_tokens"} <= logged.keys()


def test_the_loss_is_that_of_the_equations(tiny_model, tmp_path):
    """Loss, gradient and metrics of a batch, against plain forward passes of each state and the equations."""
    args = TDRMConfig(**distributed.settings(tmp_path, terminal_weight=3.0, gamma=0.5))
    trainer = TDRMTrainer(tiny_model, args, train_dataset=distributed.rows())
    batch = next(iter(trainer.get_train_dataloader()))
    model = copy.deepcopy(trainer.model)
    trainer.compute_loss(trainer.model, batch).backward()

    losses = []
    seen = {
        name: [] for name in ("value", "target", "last_value_correct", "last_value_wrong", "accuracy", "smoothness")
    }
    for i in range(len(batch["label"])):
        ids, later = (
            batch[name][i][batch[mask][i].bool()][None]
            for name, mask in (("input_ids", "attention_mask"), ("bootstrap_ids", "bootstrap_mask"))
        )
        target = (batch["rewards"][i] * tensor([1.0, 0.5])).sum()
        value = model(ids).logits[0, 0].sigmoid().item()
        seen["value"].append(value)
        if batch["mask"][i]:
            next_value = model(later).logits[0, 0].sigmoid().detach()
            target = target + 0.25 * next_value
            seen["smoothness"].append(abs(next_value.item() - value) / 2)
        is_last, is_correct = bool(batch["done"][i]), bool(batch["label"][i])
        if is_last:
            seen["last_value_correct" if is_correct else "last_value_wrong"].append(value)
            seen["accuracy"].append((value > 0.5) == is_correct)
        else:
            seen["target"].append(target.clamp(0, 1).item())
        wanted = batch["label"][i] if is_last else target.clamp(0, 1)
        loss = binary_cross_entropy(model(ids).logits[0, 0].sigmoid(), wanted)
        losses.append((3.0 if is_last else 1.0) * loss)
    assert all(seen.values())
    for name, values in seen.items():
        assert trainer._metrics["eval"][f"tdrm/{name}"] == [pytest.approx(sum(values) / len(values), abs=1e-5)], name
    torch.stack(losses).mean().backward()
    for (name, ours), theirs in zip(trainer.model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_a_resumed_run_equals_an_uninterrupted_one_and_the_saved_model_scores_the_same(tiny_model, tmp_path):
    changes = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-2}
    whole = train(tiny_model, tmp_path, **changes)
    whole.save_model()
    resumed = train(tiny_model, tmp_path, resume=str(tmp_path / "checkpoint-2"), **changes)
    assert tiny.losses(resumed) == tiny.losses(whole) and len(tiny.losses(whole)) == 4
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[name]), name

    row = distributed.rows()[3]
    scores = [
        model([row["prompt"]], [[{"role": "assistant", "content": "".join(row["completions"])}]])
        for model in (ProcessReward(tmp_path), ProcessReward(whole.model, whole.processing_class))
    ]
    assert scores[0] == scores[1]
    card = (tmp_path / "README.md").read_text()
    assert "ProcessReward(" in card and "2509.15110" in card and "pipeline_tag: text-classification" in card


def test_values_reach_the_fixed_point(tiny_model, tmp_path):
    """Without step rewards, V is 1 or 0 after the last step, and gamma times that before it."""
    rows = [
        {"prompt": "1?", "completions": [first + "\n\n", "b"], "rewards": [0.0, 0.0], "label": first == "g"}
        for first in "gw"
    ]
    changes = {"n_steps": 1, "gamma": 0.5, "learning_rate": 1e-2, "max_steps": 60, "logging_steps": 60}
    trainer = train(tiny_model, tmp_path, Dataset.from_list(rows), **changes)
    model = ProcessReward(trainer.model, trainer.processing_class)
    good, wrong = model.values([row["prompt"] for row in rows], [row["completions"] for row in rows])
    assert good == pytest.approx([0.5, 1.0], abs=0.03) and wrong == pytest.approx([0.0, 0.0], abs=0.03)


def test_micro_batches_make_no_difference(tiny_model, tmp_path):
    weights = []
    for size, accumulation in ((8, 1), (2, 4)):
        trainer = train(
            tiny_model,
            tmp_path,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            learning_rate=1.0,
            max_steps=1,
        )
        weights.append(trainer.model.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-5, rtol=1e-4)


def test_lora_trains_and_saves_the_value_head(tiny_model, tmp_path):
    adapter = {"peft_config": LoraConfig(**LORA, task_type="SEQ_CLS")}
    trainer = train(tiny_model, tmp_path, trainer_kwargs=adapter, max_length=300)
    trainer.save_model()
    changed = {name for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert any("score" in name for name in changed) and all("lora_" in name or "score" in name for name in changed)
    torch.manual_seed(7)  # a head that is not saved would be another one
    loaded = ProcessReward(tmp_path)
    assert (loaded.separator, loaded.max_length) == ("\n\n", 300)
    completion = [{"role": "assistant", "content": "It is 2.\n\nYes."}]
    assert loaded([PROMPT], [completion]) == pytest.approx(
        ProcessReward(trainer.model, trainer.processing_class)([PROMPT], [completion]), abs=1e-5
    )
    for other in ({"task_type": "CAUSAL_LM"}, {"task_type": "CAUSAL_LM", "modules_to_save": ["score"]}, {}):
        with pytest.raises(
            ValueError, match=r"the task type .* is not trained, saved and loaded. Set task_type=\"SEQ_CLS\""
        ):
            train(tiny_model, tmp_path, trainer_kwargs={"peft_config": LoraConfig(**LORA, **other)})


def test_separator_and_max_length_are_saved_with_the_model(tiny_model, tmp_path, other_model, caplog):
    rows = [{"prompt": "1?", "completions": ["a\n", "b"], "rewards": [0.0, 0.0], "label": label} for label in (0, 1)]
    changes = {"max_steps": 1, "step_separator": "\n", "max_length": 64}
    trainer = train(tiny_model, tmp_path, Dataset.from_list(rows), **changes)
    trainer.save_model()
    trainer.create_model_card()
    for model in (ProcessReward(tmp_path), ProcessReward(trainer.model, trainer.processing_class)):
        assert (model.separator, model.max_length) == ("\n", 64)
    assert (
        f"ProcessReward(\"path/to/{tmp_path.name}\", separator='\\n', max_length=64)"
        in (tmp_path / "README.md").read_text()
    )
    with caplog.at_level("WARNING"):
        other = ProcessReward(tmp_path, separator="\n\n", max_length=64)
    assert (other.separator, other.max_length) == ("\n\n", 64)
    assert r"scores with {'separator': '\n\n'}, but the model was trained with {'separator': '\n'}" in caplog.text
    unknown = ProcessReward(*other_model)
    assert (unknown.separator, unknown.max_length) == ("\n\n", 1024)


def test_prepared_rows_have_the_n_steps_of_the_trainer(tiny_model, tmp_path):
    prepared = train(tiny_model, tmp_path, max_steps=1).train_dataset  # with n_steps=2
    assert train(tiny_model, tmp_path, prepared, max_steps=1).train_dataset is prepared
    with pytest.raises(ValueError, match="are prepared for n_steps=2, but n_steps is 3. Set n_steps=2"):
        train(tiny_model, tmp_path, prepared, n_steps=3)


def test_plain_texts_streams_and_evaluation(tiny_model, tmp_path):
    rows = [{**row, "prompt": row["prompt"][0]["content"] + "\n"} for row in distributed.rows()]
    stream = IterableDataset.from_generator(lambda: iter(rows))
    evaluated = Dataset.from_list(rows[:2])
    trainer = train(tiny_model, tmp_path, stream, {"eval_dataset": evaluated}, max_length=16)
    assert len(tiny.losses(trainer)) == 2
    states = list(trainer.train_dataset)
    assert max(len(row["state_ids"]) for row in states) == 16  # the last tokens
    assert trainer.processing_class.decode(states[-1]["state_ids"]).endswith(r"\boxed{7}")
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.evaluate(evaluated)["eval_loss"])


def test_a_plain_config_is_accepted_and_not_changed(tiny_model, tmp_path):
    settings = distributed.settings(tmp_path)
    del settings["n_steps"]
    args = RewardConfig(**settings)
    trainer = TDRMTrainer(tiny_model, args, train_dataset=distributed.rows())
    assert isinstance(trainer.args, TDRMConfig) and (trainer.args.n_steps, trainer.args.gamma) == (1, 0.8)
    assert not hasattr(args, "gamma")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"completions": []}, r"Row 1: `completions` must be a list of one or more steps"),
        (
            {"completions": ["a\n", "b"]},
            r"Row 1: every step but the last must end with step_separator='\\n\\n', .* 'a\\n'",
        ),
        ({"completions": ["\n\n"] * 2}, r"Row 1 has 2 steps, so `rewards` needs as many numbers"),
        ({"rewards": [math.nan]}, r"Row 1: `rewards` must be finite numbers"),
        ({"label": 2}, r"Row 1: `label` must be true or false"),
        ({"label": None}, r"Row 1: `label` must be true or false"),
    ],
)
def test_rows_that_are_not_valid(tiny_model, tmp_path, changes, message):
    row = {"prompt": "1?", "completions": ["1"], "rewards": [0.5], "label": 1}
    args = TDRMConfig(**distributed.settings(tmp_path))
    with pytest.raises(ValueError, match=message):
        TDRMTrainer(tiny_model, args, train_dataset=Dataset.from_list([row, row | changes]))


def test_datasets_and_templates_that_do_not_fit(tiny_model, tmp_path):
    args = TDRMConfig(**distributed.settings(tmp_path))
    with pytest.raises(ValueError, match=r"train dataset lacks the columns \['rewards'\]"):
        TDRMTrainer(tiny_model, args, train_dataset=distributed.rows().remove_columns("rewards"))
    with pytest.raises(ValueError, match="train dataset is empty"):
        TDRMTrainer(tiny_model, args, train_dataset=Dataset.from_list([]))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = deepseek_r1_distill_chat_template
    with pytest.raises(ValueError, match="drops the reasoning of a reply"):
        TDRMTrainer(tiny_model, args, train_dataset=distributed.rows(), processing_class=tokenizer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_steps": 0}, "n_steps >= 1"),
        ({"gamma": 1.1}, r"gamma in \[0, 1\]"),
        ({"gamma": math.nan}, r"gamma in \[0, 1\]"),
        ({"terminal_weight": 0.0}, "positive terminal_weight"),
        ({"step_separator": ""}, "step_separator is an empty text"),
        ({"center_rewards_coefficient": 0.01}, "center_rewards_coefficient=0.01 has no effect"),
    ],
)
def test_settings_that_are_not_valid(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        TDRMConfig(**distributed.settings(tmp_path, **changes))


def test_collator():
    row = {"rewards": [0.5], "label": 1.0, "done": 0.0, "mask": 1.0}
    batch = DataCollatorForTDRM(0, pad_to_multiple_of=4)(
        [
            {**row, "state_ids": [1, 2, 3, 4, 5], "bootstrap_ids": [1]},
            {**row, "state_ids": [6], "bootstrap_ids": []},
        ]
    )
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 0, 0, 0], [6, 0, 0, 0, 0, 0, 0, 0]]
    assert batch["attention_mask"].sum(1).tolist() == [5, 1] and batch["bootstrap_mask"].sum(1).tolist() == [1, 1]


# The reward function


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n\nb\n\nSo \\boxed{1}.\n\nc \\boxed{2}", "a\n\nb\n\n"),
        ("\\boxed{1}\n\nb", "\\boxed{1}\n\n"),  # at least one step
        ("a \\boxed{1}", "a \\boxed{1}"),
        ("a\n\nb", "a\n\nb"),
        ("", ""),
    ],
)
def test_text_before_answer(text, expected):
    assert text_before_answer(text) == expected


@pytest.fixture(scope="module")
def other_model():
    """A random value model with another vocabulary than the policy, and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model("qwen2", vocab_size=len(tokenizer), num_key_value_heads=2, num_labels=1, **sizes)
    torch.manual_seed(3)
    return AutoModelForSequenceClassification.from_config(config), tokenizer


def test_scores_are_logits_of_the_state_before_the_answer(other_model):
    model, tokenizer = other_model
    prompts = [[{"role": "system", "content": "Be brief."}, *PROMPT], PROMPT, "1 + 1?", PROMPT]
    said = ["1+1=2\n\nSo \\boxed{2}.", "It is\n\n two.", "2\n\n\\boxed{2}", ""]
    completions = [text if i == 2 else [{"role": "assistant", "content": text}] for i, text in enumerate(said)]
    states = ["1+1=2", "It is\n\n two.", "1 + 1?2", ""]
    reward = ProcessReward(model, tokenizer, batch_size=2)
    for i, score in enumerate(reward(prompts, completions, solution=["2"] * 4)):
        text = states[i]
        if i != 2:
            text = tokenizer.apply_chat_template([*PROMPT, {"role": "assistant", "content": text}], tokenize=False)
        logit = model(tensor([tokenizer(text).input_ids])).logits[0, 0]
        assert score == pytest.approx(logit.item(), abs=1e-5)
    values = ProcessReward(model, tokenizer, output="sigmoid")(prompts, completions)
    assert values == pytest.approx(tensor(reward(prompts, completions)).sigmoid().tolist(), abs=1e-6)
    whole = ProcessReward(model, tokenizer, before_answer=False)
    steps = ["1+1=2\n\n", "So \\boxed{2}."]
    assert tensor(whole(prompts[:1], completions[:1])).sigmoid().item() == pytest.approx(
        whole.values([PROMPT], [steps])[0][1], abs=1e-6
    )
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_states_keep_their_last_tokens(other_model):
    _, tokenizer = other_model
    whole, short = (encode_states(tokenizer, [PROMPT], ["1+1=2"], limit)[0] for limit in (None, 5))
    assert len(short) == 5 and whole[-5:] == short


def test_the_reward_is_mixed_with_the_rule_in_hapo(tiny_model, tmp_path, problems, other_model):
    """The policy has another tokenizer than the reward model: texts are decoded and encoded again."""
    model, tokenizer = other_model
    assert len(tokenizer) != len(AutoTokenizer.from_pretrained(tiny_model))
    reward, seen = ProcessReward(model, tokenizer), []

    def process_reward(prompts, completions, **kwargs):
        seen.extend(reward(prompts, completions, **kwargs))
        return seen[-len(completions) :]

    args = HAPOConfig(**tiny.settings(tmp_path, max_steps=1), reward_weights=[0.8, 0.2])
    trainer = HAPOTrainer(tiny_model, [tiny.even_reward, process_reward], args=args, train_dataset=problems)
    trainer.train()
    logged = trainer.state.log_history[0]
    assert len(set(seen)) > 1 and logged["rewards/process_reward/mean"] == pytest.approx(sum(seen) / len(seen))
    rule, hapo = (logged[f"rewards/{name}/mean"] for name in ("even_reward", "HAPOLengthReward"))
    assert logged["reward"] == pytest.approx(0.8 * rule + 0.2 * sum(seen) / len(seen) + hapo, abs=1e-5)


def test_a_plain_grpo_trainer_takes_the_reward(tiny_model, tmp_path, problems, other_model):
    reward = ProcessReward(*other_model, output="sigmoid")
    args = GRPOConfig(**tiny.settings(tmp_path, max_steps=1), reward_weights=[0.8, 0.2])
    trainer = GRPOTrainer(tiny_model, [tiny.even_reward, reward], args=args, train_dataset=problems)
    trainer.train()
    logged = trainer.state.log_history[0]
    rule, score = (logged[f"rewards/{name}/mean"] for name in ("even_reward", "process_reward"))
    assert 0 < score < 1 and logged["reward"] == pytest.approx(0.8 * rule + 0.2 * score, abs=1e-5)


def test_two_processes_give_the_gradient_and_the_rewards_of_one(tiny_model, tmp_path, two_processes):
    two = torch.load(two_processes / "tdrm" / "rank0.pt", weights_only=True)
    trainer = distributed.train(tiny_model, tmp_path / "prm", states_per_process=8)
    one = distributed.report(trainer, distributed.reward(tiny_model, tmp_path / "hapo", completions_per_process=8))
    assert (two["world_size"], one["world_size"]) == (2, 1)
    for name, weights in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weights, atol=1e-6, rtol=1e-5)
    for ours, theirs in zip(two["logged"], one["logged"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert (
        two["rewards"] == pytest.approx(one["rewards"], abs=1e-5) and "rewards/process_reward/mean" in one["rewards"]
    )


def test_models_that_are_not_process_reward_models(tiny_model, tmp_path, other_model):
    model, tokenizer = other_model
    with pytest.raises(ValueError, match=r"has no trained value head: \['score.weight'\] are missing"):
        load_process_model(tiny_model)
    with pytest.raises(FileNotFoundError, match="was not found"):
        ProcessReward("no/such-model")
    with pytest.raises(ValueError, match="needs its tokenizer"):
        ProcessReward(model)
    with pytest.raises(ValueError, match='output must be "logit" or "sigmoid"'):
        ProcessReward(model, tokenizer, output="probability")
    with pytest.raises(ValueError, match="batch_size and max_length of at least 1"):
        ProcessReward(model, tokenizer, max_length=0)
    two_labels = copy.deepcopy(model)
    two_labels.config.num_labels = 2
    with pytest.raises(ValueError, match="has 2 labels"):
        ProcessReward(two_labels, tokenizer)
    forgetful = copy.deepcopy(tokenizer)
    forgetful.chat_template = deepseek_r1_distill_chat_template
    with pytest.raises(ValueError, match="drops the reasoning of a reply"):
        ProcessReward(model, forgetful)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": tiny_model}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="is an adapter for CAUSAL_LM"):
        load_process_model(str(tmp_path))
