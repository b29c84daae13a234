# SPDX-License-Identifier: Apache-2.0
"""Selecting tokens changes neither the loss nor the gradient of the selected ones; it only leaves work out."""

from __future__ import annotations

import math

import pytest
import torch
from peft import LoraConfig
from trl import GRPOTrainer

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, PrefixMatching, StochasticTokens, TokenCredit
from trl_concise.batch.token_credit import KeptTokens, kept_lengths, order_by_kept_length


PROMPT, COMPLETION = 9, 24  # columns


class FirstTokens(TokenCredit):
    """Keeps the first tokens of each completion, as many as the row's number says."""

    name = "first"

    def select(self, tokens):
        return torch.tensor([[t < self.kept(row) for t in range(COMPLETION)] for row in range(len(tokens.own()))])

    def kept(self, row):
        return 1 + row % 3

    def assign(self, rollouts, batch, advantages):
        width = batch["completion_ids"].size(1)
        return advantages, self.select(rollouts.tokens)[:, :width]


class Widths:
    """The width of every batch that reaches the backbone, and whether gradients were wanted."""

    def __init__(self, model):
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.seen: list[tuple[int, bool]] = []
        model.model.register_forward_pre_hook(
            lambda module, args, kwargs: self.seen.append((kwargs["input_ids"].size(1), torch.is_grad_enabled())),
            with_kwargs=True,
        )


def build(model, problems, folder, trainer_class=ConciseGRPOTrainer, credit=None, reward=tiny.even_reward, **changes):
    slots = {name: changes.pop(name) for name in ("peft_config", "rollout_func") if name in changes}
    args = ConciseGRPOConfig(**tiny.settings(folder, **changes))
    return trainer_class(model, reward, args, problems, token_credit=credit or FirstTokens(), **slots)


def hand_made_batch(keep) -> dict[str, torch.Tensor]:
    """Four rows: prompts padded on the left, completions on the right."""
    generator = torch.Generator().manual_seed(1)
    prompt_mask = (torch.arange(PROMPT) >= torch.tensor([[0], [6], [3], [5]])).long()
    completion_mask = (torch.arange(COMPLETION) < torch.tensor([[24], [7], [12], [3]])).long()
    return {
        "prompt_ids": torch.randint(10, 200, (4, PROMPT), generator=generator),
        "prompt_mask": prompt_mask,
        "completion_ids": torch.randint(10, 200, (4, COMPLETION), generator=generator),
        "completion_mask": completion_mask,
        "advantages": torch.randn(4, COMPLETION, generator=generator),
        "tool_mask": keep.long(),
        "num_items_in_batch": keep.sum(),
    }


def loss_and_gradients(trainer, loss) -> tuple[torch.Tensor, list[torch.Tensor]]:
    parameters = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    return loss.detach(), torch.autograd.grad(loss, parameters)


@pytest.mark.parametrize("shape", [(8, 3), (7, 24), (8,), (24,), None], ids=str)
def test_a_selection_of_the_wrong_shape_is_refused_by_name(shape, tiny_model, problems, tmp_path):
    class Narrow(FirstTokens):
        name = "narrow"

        def select(self, tokens):
            return [[True] * 24] * 8 if shape is None else torch.ones(shape, dtype=torch.bool)

    rollout = tiny.rollouts_of([[5] * 8])  # and EOS
    trainer = build(tiny_model, problems, tmp_path, credit=[FirstTokens(), Narrow()], rollout_func=rollout)
    message = (
        r"Narrow\.select returned (the shape .*|a list) for 8 completions of at most 6 tokens\. Return a tensor of the shape "
        r"\(8, 6\), or wider"
    )
    with pytest.raises(ValueError, match=message):
        trainer.train()


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_an_advantage_that_is_not_finite_is_refused_by_name(value, tiny_model, problems, tmp_path):
    class Endless(FirstTokens):
        name = "endless"

        def assign(self, rollouts, batch, advantages):
            return torch.full_like(advantages, value), None

    with pytest.raises(ValueError, match=r"Endless\.assign returned an advantage that is infinite or NaN"):
        build(tiny_model, problems, tmp_path, credit=[Endless()]).train()


@pytest.fixture(scope="session")
def architectures(tmp_path_factory, tiny_model) -> dict[str, str]:
    return {"qwen2": tiny_model, "llama": tiny.make_model(tmp_path_factory.mktemp("llama"), architecture="llama")}


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_cropping_and_masking_are_exact(architecture, lora, architectures, problems, tmp_path):
    peft = {"peft_config": LoraConfig(target_modules="all-linear", init_lora_weights=False)} if lora else {}
    trainer = build(architectures[architecture], problems, tmp_path, **peft)
    trainer.current_gradient_accumulation_steps = 1  # set by `train`
    keep = torch.rand(4, COMPLETION, generator=torch.Generator().manual_seed(2)) < 0.5
    keep[:, 11:] = False
    keep[0, 10] = True
    batch = hand_made_batch(keep)
    trainer.model.train()
    widths = Widths(trainer.model)
    # TRL's own loss: every column goes through the model, and the mask drops what is not kept afterwards.
    whole = loss_and_gradients(trainer, GRPOTrainer._compute_loss(trainer, trainer.model, batch))
    cropped = loss_and_gradients(trainer, trainer.compute_loss(trainer.model, batch))
    assert widths.seen == [(PROMPT + COMPLETION, True), (PROMPT + 11, True)]
    assert max(gradient.abs().max() for gradient in whole[1]) > 1e-3
    torch.testing.assert_close(cropped[0], whole[0], atol=1e-6, rtol=1e-5)
    for ours, theirs in zip(cropped[1], whole[1], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
    left_out = (COMPLETION - 11) / (PROMPT + COMPLETION)
    assert trainer._metrics["train"]["token_credit/cropped_fraction"] == [pytest.approx(left_out)]


def test_a_batch_without_kept_tokens_runs_one_column(tiny_model, problems, tmp_path):
    trainer = build(tiny_model, problems, tmp_path)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    widths = Widths(trainer.model)
    loss = trainer.compute_loss(trainer.model, hand_made_batch(torch.zeros(4, COMPLETION, dtype=torch.bool)))
    loss, gradients = loss_and_gradients(trainer, loss)
    assert widths.seen == [(PROMPT + 1, True)]
    assert loss == 0 and all(gradient.abs().max() == 0 for gradient in gradients)


def test_labels_of_tokens_that_are_not_kept_are_ignored():
    """What the fused head is told to skip, chunk by chunk."""
    seen = []

    def model(labels, **inputs):
        seen.append(labels)

    def score(model, input_ids, attention_mask, logits_to_keep, batch_size):
        for start in range(0, len(input_ids), batch_size):
            labels = input_ids[start : start + batch_size].clone()
            labels[:, :-logits_to_keep] = -100
            model(input_ids=input_ids[start : start + batch_size], labels=labels)
        return torch.ones(len(input_ids), logits_to_keep), None, None

    keep = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]).bool()
    ids = torch.arange(18).view(3, 6)
    logps, entropies, _ = KeptTokens(keep).score(score, model, ids, ids, 4, batch_size=2)
    assert torch.cat(seen).tolist() == [[-100, -100, 2, -100, -100], [-100, -100, -100, 9, -100], [-100] * 4 + [16]]
    assert logps.tolist() == [[1, 1, 1, 0]] * 3 and entropies is None
    rounded, _, _ = KeptTokens(keep, multiple_of=4).score(score, model, ids, ids, 4, batch_size=3)
    assert rounded.tolist() == [[1, 1, 1, 1]] * 3
    whole, _, _ = KeptTokens(keep, crop=False).score(score, model, ids, ids, 4, batch_size=3)
    assert whole.tolist() == [[1, 1, 1, 1]] * 3


def test_kept_lengths():
    assert kept_lengths(torch.tensor([[0, 1, 0], [0, 0, 0], [1, 0, 1]])).tolist() == [2, 0, 3]


# Through training


class Uncropped(ConciseGRPOTrainer):
    def _keep_only(self, keep):
        return KeptTokens(keep.bool(), crop=False)


def test_old_and_reference_scores_are_cropped_too(tiny_model, problems, tmp_path):
    losses, policy, reference = [], [], []
    for trainer_class in (ConciseGRPOTrainer, Uncropped):
        trainer = build(
            tiny_model,
            problems,
            tmp_path / trainer_class.__name__,
            trainer_class,
            rollout_func=tiny.rollouts_of([[9, 8, 7, 6, 5, 4, 3, 2]]),  # prompts of 3 tokens, completions of up to 10
            beta=0.1,
            num_iterations=2,
            max_steps=4,
        )
        policy.append(Widths(trainer.model).seen), reference.append(Widths(trainer.ref_model).seen)
        trainer.train()
        losses.append(tiny.losses(trainer))
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    # Two batches, each scored once by the old policy and trained on twice; at most 3 tokens are kept.
    assert policy == [[(width, False), (width, True), (width, True)] * 2 for width in (3 + 3, 3 + 10)]
    assert reference == [[(width, False)] * 2 for width in (3 + 3, 3 + 10)]


class Correcting(ConciseGRPOTrainer):
    """Completions with the sampler's log-probabilities, and vLLM's correction; no vLLM."""

    def __init__(self, *args, mode, **kwargs):
        super().__init__(*args, **kwargs)
        self.use_vllm, self.vllm_importance_sampling_correction = True, True
        self.vllm_importance_sampling_mode = mode
        self._last_loaded_step = 0  # the weights are up to date

    @classmethod
    def in_mode(cls, mode):
        def make(*args, **kwargs):
            return tiny.spy(cls)(*args, mode=mode, **kwargs)

        return make


def sampled(prompts, trainer):
    output = tiny.rollouts_of([[9, 8, 7, 6, 5, 4, 3, 2]])(prompts, trainer)
    output["logprobs"] = [[-5.5 + 0.1 * (t % 3) for t in range(len(ids))] for ids in output["completion_ids"]]
    return output


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_vllm_corrections(mode, tiny_model, problems, tmp_path):
    """A token's ratio needs its own old score, which is cropped; a sequence's needs all, which are not."""
    trainer = build(
        tiny_model, problems, tmp_path, Correcting.in_mode(mode), rollout_func=sampled, max_steps=1, loss_type="grpo"
    )
    widths = Widths(trainer.model)
    trainer.train()
    inputs, loss, _ = trainer.seen[0]
    model, keep = tiny.load(tiny_model), (inputs["tool_mask"] * inputs["completion_mask"]).bool()
    with torch.no_grad():
        logps = tiny.whole_logps(model, inputs)
    difference = (logps - inputs["sampling_per_token_logps"]) * inputs["completion_mask"]
    if mode.startswith("token"):
        ratio = (difference * keep).exp()
    else:
        ratio = difference.sum(1, keepdim=True).exp()
    ratio = ratio.clamp(max=3) if mode.endswith("truncate") else ratio * (ratio <= 3)
    torch.testing.assert_close(inputs["importance_sampling_ratio"], ratio, atol=1e-4, rtol=1e-4)
    expected = -(inputs["advantages"][:, None] * ratio * keep).sum(1) / keep.sum(1)
    torch.testing.assert_close(loss, expected.mean(), atol=1e-5, rtol=1e-4)
    old = [width for width, gradient in widths.seen if not gradient]
    assert old == [3 + (3 if mode.startswith("token") else 10)]  # prompts of 3 tokens; 3 kept, 10 in all


def test_tool_output_and_truncated_completions_stay_out(tiny_model, problems, tmp_path):
    def rollout(prompts, trainer):
        output = tiny.rollouts_of([[6] * 8])(prompts, trainer)
        output["completion_ids"][0].pop()  # no EOS
        output["env_mask"] = [[1, 0, 0, 1, 1, 1, 1][: len(ids)] for ids in output["completion_ids"]]
        return output

    credit = StochasticTokens(cutoff=3, max_tokens=3, probability=0)
    trainer = build(
        tiny_model,
        problems,
        tmp_path,
        tiny.spy(ConciseGRPOTrainer),
        credit,
        rollout_func=rollout,
        max_steps=1,
        mask_truncated_completions=True,
    )
    trainer.train()
    inputs, _, _ = trainer.seen[0]
    kept = inputs["tool_mask"] * inputs["completion_mask"]
    assert sorted(kept.tolist()) == [[0] * 7] + [[1, 0, 0, 1, 1, 0, 0]] * 7


def test_rows_are_ordered_within_an_optimizer_step(tiny_model, problems, tmp_path):
    class Unordered(ConciseGRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            batch = super()._generate_and_score_completions(inputs)
            self._is_ordered = True
            return batch

    seen = {}
    for trainer_class in (ConciseGRPOTrainer, Unordered):
        trainer = build(
            tiny_model,
            problems,
            tmp_path / trainer_class.__name__,
            tiny.spy(trainer_class),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=4,
            max_steps=1,
            max_completion_length=COMPLETION,
        )
        trainer.train()
        seen[trainer_class] = trainer.seen
    lengths = [kept_lengths(inputs["tool_mask"]).tolist() for inputs, _, _ in seen[ConciseGRPOTrainer]]
    assert sum(lengths, []) == [3, 3, 2, 2, 2, 1, 1, 1]
    ordered, shuffled = (
        [sum(parts) for parts in zip(*(gradients for _, _, gradients in steps), strict=True)]
        for steps in seen.values()
    )
    for ours, theirs in zip(ordered, shuffled, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_ordering_stays_within_windows_and_keeps_means_over_chunks(tmp_path):
    def chunks():
        masks = [[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0]]
        return [
            {
                "completion_mask": torch.ones(1, 3),
                "tool_mask": torch.tensor([mask]),
                "row": [row],
                "num_items_in_batch": torch.tensor(6),
                "nothing": None,
            }
            for row, mask in enumerate(masks)
        ]

    def rows(**changes):
        args = ConciseGRPOConfig(**tiny.settings(tmp_path, per_device_train_batch_size=4, **changes))
        ordered = order_by_kept_length(chunks(), args)
        assert all(chunk["num_items_in_batch"] == 6 and chunk["nothing"] is None for chunk in ordered)
        assert all(torch.equal(chunk["tool_mask"], chunks()[chunk["row"][0]]["tool_mask"]) for chunk in ordered)
        return [chunk["row"][0] for chunk in ordered]

    assert rows(gradient_accumulation_steps=4) == [2, 0, 1, 3]
    assert rows(gradient_accumulation_steps=8) == [2, 0, 1, 3]
    assert rows(gradient_accumulation_steps=4, top_entropy_quantile=0.5) == [0, 1, 2, 3]
    assert rows(gradient_accumulation_steps=2) == [0, 1, 2, 3]
    assert rows(gradient_accumulation_steps=1) == [0, 1, 2, 3]
    assert rows(gradient_accumulation_steps=4, loss_type="bnpo") == [0, 1, 2, 3]
    assert rows(gradient_accumulation_steps=4, entropy_coef=0.01) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"importance_sampling_level": "sequence"}, 'gives all tokens of a completion one ratio. Set it to "token"'),
        ({"loss_type": "vespo"}, "weighs a completion by the ratio of all its tokens. Choose another loss_type"),
        ({"off_policy_mask_threshold": 0.5}, "Leave it None"),
    ],
)
@pytest.mark.parametrize("credit", [StochasticTokens, PrefixMatching])
def test_settings_that_need_every_token_are_refused(credit, changes, message, tiny_model, problems, tmp_path):
    with pytest.raises(ValueError, match=message):
        build(tiny_model, problems, tmp_path, credit=credit(), **changes)


def test_two_selections_intersect(tiny_model, problems, tmp_path):
    credits = [FirstTokens(), StochasticTokens(cutoff=2, max_tokens=2, probability=0)]
    trainer = build(tiny_model, problems, tmp_path, tiny.spy(ConciseGRPOTrainer), credits, max_steps=1)
    trainer.train()
    inputs, _, _ = trainer.seen[0]
    kept = inputs["tool_mask"] * inputs["completion_mask"]
    assert sorted(kept.sum(1).tolist()) == [1, 1, 1, 2, 2, 2, 2, 2]
    assert inputs["num_items_in_batch"] == kept.sum()
