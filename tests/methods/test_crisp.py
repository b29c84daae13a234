# SPDX-License-Identifier: Apache-2.0
"""Golden values: the equation of the paper (2603.05433) by PyTorch's autograd, and TRL's experimental SDFT functions, run once."""

from __future__ import annotations

import logging

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback

from tests import slot_rows, tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.batch.reference import reference_tensors
from trl_concise.batch.rollouts import LocalRollouts, Rollouts
from trl_concise.methods.crisp import CRISP, log_ratio, teacher_prompt


STUDENT, TEACHER = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.3, 0.5]).double()
SLOPE = [0.320702, -0.082466, -0.238236]


def reverse_kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The loss of each token, whose gradient the advantages have in expectation: KL(p, q), from logits `(..., V)`."""
    p, q = student.log_softmax(dim=-1), teacher.detach().log_softmax(dim=-1)
    return (p.exp() * (p - q)).sum(dim=-1)


def assign(*places: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, float]:
    """
    Tokens `(20, T)` that occur at each place exactly as often as the student says, so that means over them are its expectations; the
    advantages that CRISP assigns to them; and the divergence that it logs.
    """
    tokens = [torch.arange(len(student)).repeat_interleave((20 * student).round().long()) for student, _ in places]
    ratios = [log_ratio(p.log()[own], q.log()[own]) for (p, q), own in zip(places, tokens, strict=True)]
    rollouts = Rollouts(
        ("a",) * 20,
        torch.full((20,), len(places)),
        torch.ones(20),
        20,
        measured_tokens={"crisp": {"log_ratio": torch.stack(ratios, dim=1)}},
    )
    component = CRISP()
    batch = {"completion_mask": torch.ones(20, len(places) + 1, dtype=torch.long)}
    batch["completion_mask"][:, -1] = 0  # padding
    advantages, selected = component.assign(rollouts, batch, torch.zeros(20))
    assert selected is None and not advantages[:, -1].any()
    return torch.stack(tokens, dim=1), advantages[:, :-1], component.metrics()["divergence"]


def test_golden_values():
    first = STUDENT, TEACHER
    second = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.9, 0.05, 0.05])
    wide = torch.tensor([0.5, 0.3, 0.15, 0.05]), torch.tensor([0.2, 0.3, 0.25, 0.25])
    tokens, advantages, divergence = assign(first)
    assert divergence == pytest.approx(0.274887, abs=1e-6)
    golden = torch.tensor([-0.916291, 0, 0.916291]).double()  # by token
    torch.testing.assert_close(advantages, golden[tokens], atol=1e-6, rtol=0)
    logits = STUDENT.log().requires_grad_()
    (-advantages * logits.log_softmax(-1)[tokens]).mean().backward()  # the policy gradient
    assert logits.grad.tolist() == pytest.approx(SLOPE, abs=1e-6)
    assert assign(second)[2] == pytest.approx(0.170653, abs=1e-6)
    assert assign(first, second)[2] == pytest.approx(0.222770, abs=1e-6)  # the mean over tokens
    assert assign(wide)[2] == pytest.approx(0.301050, abs=1e-6)
    assert assign((STUDENT, STUDENT))[2] == 0


LOGITS = st.lists(st.floats(-3, 3), min_size=4, max_size=4)


@given(LOGITS, LOGITS)
def test_sampled_tokens_have_the_gradient_of_the_divergence_in_expectation(student, teacher):
    p, q = torch.tensor([student, teacher], dtype=torch.float64).log_softmax(dim=-1)
    logits = p.clone().requires_grad_()
    loss = reverse_kl(logits, q)
    loss.backward()
    advantages = log_ratio(p, q)
    assert -(p.exp() * advantages).sum().item() == pytest.approx(loss.item(), abs=1e-9)
    scores = torch.eye(4).double() - p.exp()  # gradient of log p(y) in the logits, by token
    expected = -(p.exp()[:, None] * advantages[:, None] * scores).sum(dim=0)
    torch.testing.assert_close(logits.grad, expected, atol=1e-9, rtol=0)


def test_the_instruction_is_placed_before_the_problem():
    system, user = {"role": "system", "content": "Think."}, {"role": "user", "content": "1 + 1?"}
    answer = {"role": "assistant", "content": "2"}
    instructed = {"role": "user", "content": "Be brief. 1 + 1?"}
    assert teacher_prompt("1 + 1?", "Be brief. ") == "Be brief. 1 + 1?"
    prompt = [system, user, answer, user]
    assert teacher_prompt(prompt, "Be brief. ") == [system, user, answer, instructed]
    assert prompt == [system, user, answer, {"role": "user", "content": "1 + 1?"}]
    parts = [{"type": "text", "text": "1 + 1?"}]
    (message,) = teacher_prompt([{"role": "user", "content": parts}], "Be brief. ")
    assert [part["text"] for part in message["content"]] == ["Be brief. ", "1 + 1?"] and len(parts) == 1
    assert teacher_prompt([user], lambda messages: [system, *messages]) == [system, user]
    assert teacher_prompt([user], lambda messages: messages.clear()) is None and user["content"]
    with pytest.raises(ValueError, match=r"roles \['system'\].* pass a function as `instruction`"):
        teacher_prompt([system], "Be brief. ")


# Training

INSTRUCTION = "Keep it short. "
LORA = {"r": 2, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": "gaussian"}


def make_trainer(model, dataset, folder, component, rewards=None, adapter=False, rollout_func=None, **changes):
    settings = {"learning_rate": 1e-2, "num_generations": 2, **changes}
    return tiny.spy(ConciseGRPOTrainer)(
        model,
        rewards,
        ConciseGRPOConfig(**tiny.settings(folder, **settings)),
        dataset,
        token_credit=component,
        rollout_func=rollout_func,
        peft_config=LoraConfig(**LORA) if adapter else None,
    )


def scores(model, tokenizer, inputs, instruction: str) -> torch.Tensor:
    """`(b, T)` log-probabilities of the completions after an instructed prompt, one row at a time, and 0 for padding."""
    rows = torch.zeros(inputs["completion_ids"].shape)
    for row, (prompt, mask, ids, own) in enumerate(
        zip(
            *(inputs[name] for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")), strict=True
        )
    ):
        text = tokenizer.decode(prompt[mask.bool()]).replace("user\n", f"user\n{instruction}")
        given, ids = tokenizer(text)["input_ids"], ids[own.bool()]
        logits = model(input_ids=torch.tensor([[*given, *ids.tolist()]])).logits[0, len(given) - 1 : -1]
        rows[row, : len(ids)] = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
    return rows


def test_two_steps_have_the_gradient_of_the_paper_on_the_sampled_tokens(tiny_model, problems, tmp_path):
    """Right-or-wrong and truncated completions of different lengths: the mean over all tokens."""
    rollout = tiny.rollouts_of([[3, 7, 5, 1, 8, 2, 4, 6]])
    trainer = make_trainer(tiny_model, problems, tmp_path, CRISP(INSTRUCTION), max_completion_length=9)
    trainer.rollout_func = lambda prompts, trainer: {
        **rollout(prompts, trainer),
        "prompt_ids": trainer.tokenize_prompts(prompts),
    }
    trainer.train()
    assert trainer.state.global_step == 2
    inputs, loss, gradients = trainer.seen[0]
    model, tokenizer = tiny.load(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    student = scores(model, tokenizer, inputs, "")
    torch.testing.assert_close(student, tiny.whole_logps(model, inputs) * inputs["completion_mask"])
    advantages = log_ratio(student, scores(model, tokenizer, inputs, INSTRUCTION))
    torch.testing.assert_close(inputs["advantages"], advantages, atol=1e-5, rtol=1e-4)
    tokens = inputs["completion_mask"].sum()
    assert tokens == 36 + 8  # with EOS
    expected = torch.autograd.grad(-(advantages * student).sum() / tokens, list(model.parameters()))
    for own, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-3)
    divergence = -(advantages.sum() / tokens).item()
    assert abs(divergence) > 1e-3 and loss.item() == pytest.approx(divergence, abs=1e-6)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logged[0]["crisp/divergence"] == pytest.approx(divergence, abs=1e-6)
    assert [entry["crisp/teacher_age"] for entry in logged] == [0, 1]


def test_trl_sdft_has_the_same_gradient(tiny_model, problems, tmp_path):
    """On completions of equal lengths, because SDFT's loss is the mean over completions of their mean over tokens."""
    sdft = pytest.importorskip("trl.experimental.sdft")
    from trl.experimental.sdft.sdft_trainer import DemonstrationTeacherContextBuilder

    rollout = tiny.rollouts_of([[5] * 8])
    trainer = make_trainer(tiny_model, problems, tmp_path, CRISP(INSTRUCTION), max_steps=1)
    trainer.rollout_func = lambda prompts, trainer: {
        **rollout(prompts, trainer),
        "prompt_ids": trainer.tokenize_prompts(prompts),
    }
    trainer.train()
    inputs, _, gradients = trainer.seen[0]
    data = [{"prompt": row["prompt"], "privileged_context": INSTRUCTION} for row in problems]
    args = sdft.SDFTConfig(
        output_dir=str(tmp_path / "sdft"),
        use_cpu=True,
        bf16=False,
        report_to="none",
        num_generations=1,
        per_device_train_batch_size=8,
        distillation_alpha=1.0,
        distillation_mode="sampled_token",
        distillation_is_clip=None,
        teacher_prompt_template="{privileged_context}{prompt}",
    )
    other = sdft.SDFTTrainer(tiny_model, args=args, train_dataset=Dataset.from_list(data))
    prompts = other.processing_class.batch_decode(
        [row[mask.bool()] for row, mask in zip(inputs["prompt_ids"], inputs["prompt_mask"], strict=True)]
    )
    asked = [[{"role": "user", "content": text.split("user\n")[1].split("<|im_end|>")[0]}] for text in prompts]
    builder = DemonstrationTeacherContextBuilder(other)
    contexts = builder.build(asked, [INSTRUCTION] * 8, inputs["completion_ids"], inputs["completion_mask"])
    other.model.train()
    other.current_gradient_accumulation_steps = 1
    loss = other.compute_loss(other.model, {**inputs, **contexts, "old_per_token_logps": None})
    expected = torch.autograd.grad(loss, list(other.model.parameters()))
    for own, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(own, theirs, atol=1e-6, rtol=1e-3)
    assert max(gradient.abs().max() for gradient in gradients) > 1e-3


@pytest.mark.parametrize("adapter", [False, True])
def test_without_an_instruction_nothing_changes(adapter, tiny_model, problems, tmp_path):
    trainer = make_trainer(tiny_model, problems, tmp_path, CRISP("", refresh_every=1), adapter=adapter)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    assert tiny.losses(trainer) == [0, 0]
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


class Watch(TrainerCallback):
    """Notes the policy and the teacher after each step."""

    def __init__(self, trainer):
        self.trainer = trainer
        self.policies, self.teachers = {}, {}

    def on_step_end(self, args, state, control, **kwargs):
        names = reference_tensors(self.trainer)
        own = dict(self.trainer.model.named_parameters())
        self.teachers[state.global_step] = {name: tensor.clone() for name, tensor in names.items()}
        self.policies[state.global_step] = {
            name: own[name.replace(".ref.", ".default.")].detach().clone()
            for name in names
            if name.replace(".ref.", ".default.") in own
        }


def equal(first: dict, second: dict) -> bool:
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("adapter", [False, True])
def test_the_teacher_is_the_policy_of_the_last_refresh_and_survives_a_resume(adapter, tiny_model, problems, tmp_path):
    def build(folder, **changes):
        component = CRISP(INSTRUCTION, refresh_every=2)
        trainer = make_trainer(tiny_model, problems, folder, component, adapter=adapter, max_steps=5, **changes)
        watch = Watch(trainer)
        trainer.add_callback(watch)  # after the component's own
        return trainer, watch

    whole, watch = build(tmp_path / "whole", save_strategy="steps", save_steps=3)
    initial = {name: tensor.clone() for name, tensor in reference_tensors(whole).items()}
    whole.train()
    assert equal(initial, watch.teachers[1]) and not equal(watch.policies[1], initial)
    for step in (2, 3, 4, 5):
        assert watch.policies[step] and equal(watch.policies[2 * (step // 2)], watch.teachers[step]), step
    expected = slot_rows.logged(whole)
    assert [entry["crisp/teacher_age"] for entry in expected] == [0, 1, 0, 1, 0]
    resumed, own = build(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert slot_rows.logged(resumed) == expected
    for step in (4, 5):
        assert equal(watch.teachers[step], own.teachers[step]) and equal(watch.policies[step], own.policies[step])


def test_a_frozen_teacher_is_in_no_checkpoint(tiny_model, problems, tmp_path):
    component = CRISP(INSTRUCTION, refresh_every=0)
    trainer = make_trainer(tiny_model, problems, tmp_path, component, save_strategy="steps", save_steps=2)
    initial = {name: tensor.clone() for name, tensor in reference_tensors(trainer).items()}
    trainer.train()
    assert equal(initial, reference_tensors(trainer)) and not list(tmp_path.rglob("*reference*"))


def test_rewards_reference_answers_and_groups_have_no_effect(tiny_model, problems, tmp_path):
    rows = [{"prompt": row["prompt"]} for row in problems]
    rollout = tiny.rollouts_of([[3, 7, 5, 1, 8, 2, 4, 6]])

    def one_prompt(prompts, trainer):  # the same rows whatever the groups are
        return {**rollout(prompts, trainer), "prompt_ids": trainer.tokenize_prompts(prompts)}

    def run(dataset, rewards, **changes):
        trainer = make_trainer(
            tiny_model,
            dataset,
            tmp_path,
            CRISP(INSTRUCTION),
            rewards,
            rollout_func=one_prompt,
            max_completion_length=9,
            **changes,
        )
        trainer.train()
        return list(trainer.model.parameters())

    weights = run(Dataset.from_list(rows), None)
    scored = run(problems, [lambda completions, solution, **kwargs: [float(text) for text in solution]])
    assert all(torch.equal(a, b) for a, b in zip(weights, scored, strict=True))
    same = Dataset.from_list(rows[:1] * 8)
    pairs, whole = run(same, None), run(same, None, num_generations=8)
    assert all(torch.equal(a, b) for a, b in zip(pairs, whole, strict=True))


def test_without_reward_functions_nothing_is_judged(tiny_model, problems, tmp_path):
    trainer = make_trainer(tiny_model, problems, tmp_path, CRISP(INSTRUCTION))
    trainer.train()
    assert trainer.correctness_column is None
    assert not [key for entry in trainer.state.log_history for key in entry if "accuracy" in key]


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"num_iterations": 2}, "Each generation serves several"),
        ({"top_k": 20}, "{'top_k': 20} changes which are drawn"),
    ],
)
def test_settings_that_change_the_estimate_warn(changes, warning, tiny_model, problems, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        make_trainer(tiny_model, problems, tmp_path, CRISP(INSTRUCTION), temperature=0.7)
        assert warning not in caplog.text
        make_trainer(tiny_model, problems, tmp_path, CRISP(INSTRUCTION), **changes)
    assert warning in caplog.text


def test_what_cannot_be_scored_token_by_token_is_refused(tiny_model, problems, tmp_path):
    with pytest.raises(ValueError, match='CRISP gives each token a separate credit.* Set it to "token"'):
        make_trainer(tiny_model, problems, tmp_path, CRISP(), importance_sampling_level="sequence")
    local = LocalRollouts(["p"], ["c"], [[5]], None, torch.tensor([1]), {"image": [None]}, 1, 0, True, [[5]])
    component = CRISP()
    make_trainer(tiny_model, problems, tmp_path, component)
    with pytest.raises(ValueError, match="CRISP reads text only, but the dataset"):
        component.measure(local)
    with_images = problems.add_column("images", [[]] * len(problems))
    with pytest.raises(ValueError, match=r"CRISP reads text only, but the train dataset has the columns \['images'\]"):
        make_trainer(tiny_model, with_images, tmp_path, CRISP())


def test_a_negative_interval_is_refused():
    with pytest.raises(ValueError, match="refresh_every must be at least 0 steps, got -1"):
        CRISP(refresh_every=-1)
