# SPDX-License-Identifier: Apache-2.0
"""
Golden values: budgets, trimming and weights computed by hand from the rules of the authors' code (delethink_agent_loop.py,
delethink_trimmers.py and the mean over traces of loss_agg_mode in McGill-NLP/the-markovian-thinker).
"""

from __future__ import annotations

import json
import math
import re
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from tests import slot_rows, tiny
from tests.component_rows import correct_if_even, problems
from trl_concise import (
    ConciseGRPOConfig,
    ConciseGRPOTrainer,
    DynamicSampling,
    HAPOLengthReward,
    demo,
    math_accuracy_reward,
)
from trl_concise.batch.chunks import weigh_completions
from trl_concise.batch.generation import GeneratedRollouts
from trl_concise.cli.commands import main
from trl_concise.evaluation import evaluate, read_completions
from trl_concise.evaluation.chunks import ChunkedSampler, Chunking
from trl_concise.evaluation.sampling import SamplingSettings
from trl_concise.methods.campo import StagedBudget
from trl_concise.methods.delethink import Delethink, context_costs
from trl_concise.methods.drpo import DRPO
from trl_concise.methods.ktae import KTAE
from trl_concise.methods.self_verify import SelfVerification


C, HEAD, LIMIT = 8, 1, 20  # 8 + 4 + 4 + 4 tokens in four chunks
EOS = 2


# Equations


@pytest.mark.parametrize(("chunks", "budget"), [(1, 8192), (2, 12288), (5, 24576), (23, 98304)])
def test_golden_budgets(chunks, budget):
    chunking = Chunking(8192)
    assert chunking.budget(chunks) == budget and (chunking.keep_head, chunking.keep_tail) == (100, 3996)


def test_golden_trim():
    chunking = Chunking(10, keep_head=2)
    assert chunking.keep_tail == 3
    cut = chunking.trim([1, 2, 3, 4, 5, 6, 7, 8])
    assert cut == [1, 2, 6, 7, 8] and chunking.trim([*cut, 9, 10, 11]) == [1, 2, 9, 10, 11]
    with pytest.raises(ValueError, match="A chunk of 5 tokens cannot be trimmed to 5"):
        chunking.trim([1, 2, 3, 4, 5])


@given(st.integers(1, 8), st.integers(0, 7), st.integers(0, 40))
def test_a_completion_is_divided_without_gap_or_repetition(half, head, tokens):
    chunking, ids = Chunking(2 * half, min(head, half - 1)), list(range(tokens))
    chunks = chunking.split(ids)
    assert [token for _, own in chunks for token in own] == ids
    for i, (carried, own) in enumerate(chunks):
        assert len(carried) + len(own) <= chunking.chunk_size and len(carried) == (half if i else 0)
        assert carried[: chunking.keep_head] == ids[: chunking.keep_head if i else 0]  # the head of the first chunk
        assert not own or not carried or own[0] == carried[-1] + 1
    tail = chunking.keep_tail
    assert chunking.judged(ids)[-tail:] == ids[-tail:]
    assert chunking.budget(len(chunks)) >= tokens > chunking.budget(len(chunks) - 1) or len(chunks) == 1


def test_golden_weights():
    """A has chunks of 10 and 6 tokens, B one of 8. The second chunk of A is the row of the batch, with two carried tokens."""
    lengths = {"A2": 6, "B": 8, "A1": 10}
    ids = torch.zeros(3, 10, dtype=torch.long)
    mask = torch.stack([(torch.arange(10) < length).long() for length in lengths.values()])
    carried = torch.ones_like(mask)
    carried[0, :2], mask[0, 6:8] = 0, 1
    tensors = {"completion_ids": ids, "completion_mask": mask, "tool_mask": carried}
    weigh_completions(tensors, torch.tensor([0]), first=2)
    weights = tensors["row_weights"][:, None] * mask * carried / tensors["num_items_in_batch"]
    assert tensors["num_items_in_batch"] == 24
    assert weights[0].unique().tolist() == pytest.approx([0, 0.03125])
    assert weights[2].unique().tolist() == pytest.approx([0.03125])
    assert weights[1].unique().tolist() == pytest.approx([0, 0.0625])
    assert (weights[0].sum() + weights[2].sum()).item() == pytest.approx(0.5)


def test_golden_costs():
    assert context_costs(10, [(0, 8)]) == (sum(range(10, 18)), 18)
    assert context_costs(10, [(0, 4), (2, 2)]) == (10 + 11 + 12 + 13 + 12 + 13, 14)
    linear = [context_costs(0, [(0, 64)] + [(32, 32)] * n)[0] for n in (3, 7, 15)]
    assert linear[2] - linear[1] == 2 * (linear[1] - linear[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((7,), "even number of at least 2 tokens, got 7"),
        ((0,), "got 0"),
        ((100,), "less than half of chunk_size = 100, got 100"),
        ((8, 4), "less than half of chunk_size = 8, got 4"),
        ((8, -1), "keep_head must be at least 0"),
    ],
)
def test_bad_sizes(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Delethink(*arguments)


# Training


def note_width(widths, module, args, kwargs):
    """Note the tokens that a forward pass sees, those of the cache included."""
    mask, places = kwargs.get("attention_mask"), kwargs.get("position_ids")
    seen = [kwargs["input_ids"].shape[1], mask.shape[1] if mask is not None else 0]
    widths.append(max(*seen, int(places.max()) + 1 if places is not None else 0))


class Noted(Delethink):
    """Keeps what it has generated, and the widths of the contexts that the model saw meanwhile."""

    name = "noted"

    def attach(self, trainer):
        super().attach(trainer)
        self.made, self.widths = [], []

        trainer.model.register_forward_pre_hook(partial(note_width, self.widths), with_kwargs=True)

    def generate(self, trainer, rows):
        self.made.append(super().generate(trainer, rows))
        return self.made[-1]


def make(
    model, folder, *, rollout=None, reward=correct_if_even, trainer_class=ConciseGRPOTrainer, dataset=None, **more
):
    slots = {
        name: more.pop(name)
        for name in ("budget_schedule", "advantage", "token_credit", "group_filter", "watch_dataset")
        if name in more
    }
    settings = {"max_completion_length": LIMIT, "loss_type": "grpo", "learning_rate": 1e-2, **more}
    dataset = problems(4) if dataset is None else dataset
    return trainer_class(
        model,
        reward if isinstance(reward, list) else [reward],
        ConciseGRPOConfig(**tiny.settings(folder, **settings)),
        dataset,
        eval_dataset=dataset,
        rollout=Noted(C, HEAD) if rollout is None else rollout,
        **slots,
    )


@pytest.fixture(scope="module")
def trained(tiny_model, tmp_path_factory):
    trainer = make(
        tiny_model,
        tmp_path_factory.mktemp("delethink"),
        trainer_class=tiny.spy(ConciseGRPOTrainer),
        reward=tiny.even_reward,
        eval_strategy="steps",
        eval_steps=2,
    )
    trainer.train()
    return trainer


def traces(generated) -> list[list]:
    """Return the chunks of each completion, the last one included, as token ids and mask."""
    return [
        [*((chunk.completion_ids, chunk.mask) for chunk in chunks), (ids, mask)]
        for chunks, ids, mask in zip(generated.chunks, generated.completion_ids, generated.mask, strict=True)
    ]


def rows_of(inputs) -> list[tuple[tuple[int, ...], int]]:
    """Return the completion of each row of a batch, without padding, and the row."""
    return [
        (tuple(ids[: sum(mask)]), row)
        for row, (ids, mask) in enumerate(
            zip(inputs["completion_ids"].tolist(), inputs["completion_mask"].tolist(), strict=True)
        )
    ]


def test_no_forward_pass_sees_more_than_the_prompt_and_a_chunk(trained):
    prompt = trained.seen[0][0]["prompt_ids"].shape[1]
    assert len(trained.rollout.widths) > 20 and max(trained.rollout.widths) == prompt + C


def test_chunks_follow_each_other_and_the_head_is_that_of_the_first(trained):
    for generated in trained.rollout.made:
        for chunks in traces(generated):
            written = [[token for token, own in zip(ids, mask, strict=True) if own] for ids, mask in chunks]
            whole = [token for ids in written for token in ids]
            expected = Chunking(C, HEAD).split(whole)
            assert [ids for ids, _ in chunks] == [carried + own for carried, own in expected]
            assert [len(ids) - sum(mask) for ids, mask in chunks] == [len(carried) for carried, _ in expected]
            assert all(ids[:HEAD] == whole[:HEAD] for ids, _ in chunks)
            assert len(whole) == LIMIT or whole[-1] in trained.end_token_ids
            assert EOS not in whole[:-1]


def test_tokens_of_a_completion_share_its_advantage_and_weigh_alike_in_all_chunks(trained, tiny_model):
    """And the gradient of the first step is that of the page's equation, computed with the saved model."""
    (inputs, loss, gradients), generated = trained.seen[0], trained.rollout.made[0]
    whole, groups = traces(generated), inputs["advantages"].new_zeros(8)
    assert max(map(len, whole)) == 4 and len(inputs["advantages"]) == sum(map(len, whole))
    weights = inputs["completion_mask"] * inputs["tool_mask"] * inputs["row_weights"][:, None]
    weights = weights / inputs["num_items_in_batch"]
    used, expected = dict(rows_of(inputs)), torch.zeros_like(weights)
    for i, chunks in enumerate(whole):
        rows = [used[tuple(ids)] for ids, _ in chunks]
        length = sum(sum(mask) for _, mask in chunks)
        for row, (_, mask) in zip(rows, chunks, strict=True):
            expected[row, : len(mask)] = torch.tensor(mask) / (8 * length)  # carried tokens: 0
        assert weights[rows].sum().item() == pytest.approx(1 / 8)
        assert len(set(inputs["advantages"][rows].tolist())) == 1
        groups[i] = inputs["advantages"][rows[0]]
    torch.testing.assert_close(weights, expected)
    # Statistics of groups count completions: four, whatever their chunks.
    assert groups.view(2, 4).sum(dim=1).abs().max() < 1e-5 and groups.abs().max() > 0.1

    model = tiny.load(tiny_model)
    logps = tiny.whole_logps(model, inputs)
    objective = (expected * inputs["advantages"][:, None] * (logps - logps.detach()).exp()).sum()
    own = torch.autograd.grad(-objective, [p for p in model.parameters() if p.requires_grad])
    assert -objective.item() == pytest.approx(loss.item(), abs=1e-6)
    for one, two in zip(gradients, own, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-4)


def test_lengths_are_those_of_whole_completions(trained):
    written = [sum(sum(mask) for _, mask in chunks) for made in trained.rollout.made[:2] for chunks in traces(made)]
    logged = [entry for entry in trained.state.log_history if "completions/mean_length" in entry]
    assert len(logged) == 2 and max(written) == LIMIT
    for step, entry in enumerate(logged):
        own = written[8 * step : 8 * step + 8]
        assert entry["completions/mean_length"] == pytest.approx(sum(own) / 8)
        assert (entry["completions/min_length"], entry["completions/max_length"]) == (min(own), max(own))
        assert entry["noted/chunks"] > 3 and entry["noted/peak_context"] == 2 + C
    (evaluation,) = [entry for entry in trained.state.log_history if "eval_tokens_mean" in entry]
    assert C < evaluation["eval_tokens_mean"] <= LIMIT and evaluation["eval_truncated_fraction"] > 0
    prompts = 8 * 2
    contexts = sum(
        len(ids) + 2 for made in trained.rollout.made[:1] for chunks in traces(made) for ids, _ in chunks[:-1]
    )
    last = sum(sum(chunks[-1][1]) for chunks in traces(trained.rollout.made[0]))
    assert logged[0]["num_tokens"] == prompts + contexts + last


class Script:
    """Replaces `trainer.generate_rollouts`: the next tokens of given completions, which differ in their first token."""

    def __init__(self, trainer, completions):
        self.trainer, self.completions, self.start = trainer, completions, 0
        trainer.generate_rollouts = self

    def __call__(self, rows, n, *, prefix_ids, max_tokens):
        if not prefix_ids[0]:
            self.start, ids = 0, [self.completions[i % len(self.completions)] for i in range(len(rows))]
        else:
            by_first = {ids[0]: ids for ids in self.completions}
            ids = [by_first[prefix[0]] for prefix in prefix_ids]
        drawn = [own[self.start : self.start + max_tokens] for own in ids]
        self.start += max_tokens
        prompts = self.trainer.tokenize_prompts([row["prompt"] for row in rows])
        return GeneratedRollouts(prompts, [list(prefix) for prefix in prefix_ids], drawn, [], None, None)


def test_completions_of_one_chunk_train_exactly_as_trl_does(tiny_model, tmp_path):
    completions = [[10 + i] * (1 + i % 3) + [20 + i, EOS] for i in range(8)]
    args = {"max_completion_length": LIMIT, "loss_type": "grpo", "learning_rate": 1e-2, "beta": 0.1}

    def rollout(prompts, trainer):
        ids = [trainer.processing_class(prompt)["input_ids"] for prompt in prompts]
        return {"prompt_ids": ids, "completion_ids": completions, "logprobs": None}

    plain = GRPOTrainer(
        tiny_model,
        [correct_if_even],
        GRPOConfig(**tiny.settings(tmp_path, **args)),
        problems(4),
        rollout_func=rollout,
    )
    plain.train()
    trainer = make(tiny_model, tmp_path, rollout=Delethink(C, HEAD), beta=0.1)
    Script(trainer, completions)
    trainer.train()
    assert tiny.losses(trainer) == tiny.losses(plain) and any(tiny.losses(plain))
    assert all(torch.equal(a, b) for a, b in zip(trainer.model.parameters(), plain.model.parameters(), strict=True))


def test_a_box_that_straddles_a_boundary_is_parsed(tmp_path, tokenizer):
    """Also in evaluation. A completion whose box was left behind is wrong, one that reaches the limit is not finished."""
    chunking, end = Chunking(16, HEAD), tokenizer.eos_token_id
    box = tokenizer("\\boxed{42}").input_ids
    before = tokenizer("</think>\n").input_ids
    (first,), (second,), (line,) = (tokenizer(letter).input_ids for letter in "FL1")
    filled = ([first, *[line] * count, *before, *box, end] for count in range(16))
    straddling = next(
        ids for ids in filled if not any(box[-1] in own and box[0] in own for _, own in chunking.split(ids))
    )
    left = [second, *before, *box, *[line] * 24, end]
    assert "\\boxed{42}" in tokenizer.decode(chunking.judged(straddling)) and len(chunking.split(straddling)) == 2
    assert "boxed" not in tokenizer.decode(chunking.judged(left))
    completions = [straddling, left]
    rows = demo.train_dataset(2).map(lambda row: {"solution": "42"})
    limit = max(map(len, completions))
    trainer = make(
        str(demo.model_path()),
        tmp_path,
        rollout=Delethink(chunking.chunk_size, HEAD),
        reward=math_accuracy_reward,
        dataset=rows,
        max_completion_length=limit + 2,
        max_steps=1,
    )
    Script(trainer, completions)
    seen = []
    trainer.rollout.observe = lambda rollouts: seen.append(rollouts)
    trainer.train()
    assert seen[0].correct.tolist() == [1.0, 0.0] * 4
    assert seen[0].lengths.tolist() == [len(ids) - 1 for ids in completions] * 4 and not seen[0].truncated.any()


@pytest.mark.parametrize("changes", [{"beta": 0.1}, {"mask_truncated_completions": True, "scale_rewards": "batch"}])
def test_the_gradient_does_not_depend_on_how_the_batch_is_split(changes, tiny_model, tmp_path):
    def gradient(rows: int):
        seen = []
        trainer = make(
            tiny_model,
            tmp_path,
            rollout=slot_rows.DrawnChunks(),
            advantage=slot_rows.ShortestHalf(),
            max_completion_length=12,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=8 // rows,
            max_steps=1,
            max_grad_norm=1e9,
            **changes,
        )

        class Keep(TrainerCallback):
            def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
                seen.extend(parameter.grad.flatten().clone() for parameter in model.parameters())

        trainer.add_callback(Keep())
        trainer.train()
        return torch.cat(seen)

    whole, split = gradient(8), gradient(2)
    assert torch.allclose(whole, split, atol=1e-6) and whole.abs().max() > 1e-4


def test_truncated_completions_are_left_out_with_all_their_chunks(tiny_model, tmp_path):
    trainer = make(
        tiny_model,
        tmp_path,
        trainer_class=tiny.spy(ConciseGRPOTrainer),
        mask_truncated_completions=True,
        num_iterations=2,
        beta=0.1,
        max_steps=2,
    )
    completions = [[10 + i, *range(20, 37), 60 + i, EOS] if i % 2 else [10 + i, *range(20, 45)] for i in range(8)]
    Script(trainer, completions)
    trainer.train()
    inputs = trainer.seen[0][0]
    used = (inputs["completion_mask"] * inputs["tool_mask"]).bool().any(dim=1)
    heads = inputs["completion_ids"][:, 0]
    assert len(used) == 32 and used.tolist() == (heads % 2 == 1).tolist()
    weights = (inputs["completion_mask"] * inputs["tool_mask"] * inputs["row_weights"][:, None]).sum()
    assert (weights / inputs["num_items_in_batch"]).item() == pytest.approx(4 / 8)
    assert all(math.isfinite(loss) for loss in tiny.losses(trainer)) and len(trainer.rollout.made) == 1


def test_sampler_probabilities_of_carried_tokens_are_unknown():
    """As vLLM returns them; TRL's correction then leaves those tokens unchanged."""

    class View:
        max_completion_length, end_token_ids = 20, {EOS}
        accelerator = type("A", (), {"device": torch.device("cpu")})

        def generate_rollouts(self, rows, n, *, prefix_ids, max_tokens):
            ids = [[9] * max_tokens if row["prompt"] else [5, EOS] for row in rows]
            logps = [[-float(len(prefix))] * len(own) for prefix, own in zip(prefix_ids, ids, strict=True)]
            return GeneratedRollouts([[1]] * len(rows), [*prefix_ids], ids, [], None, None, logps)

    generated = Delethink(C, HEAD).generate(View(), [{"prompt": "a"}, {"prompt": ""}])
    assert [len(chunks) for chunks in generated.chunks] == [3, 0]
    assert generated.chunks[0][0].logps == [0.0] * 8 and generated.logps[1] == [0.0, 0.0]
    for logps in (generated.chunks[0][1].logps, generated.logps[0]):
        assert all(map(math.isnan, logps[:4])) and logps[4:] == [-4.0] * 4
    assert generated.numbers["chunks"] == [4.0, 1.0] and generated.numbers["written"] == [20.0, 2.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_type": "dapo"}, "with loss_type='dapo' the loss would weigh the chunks .* Set loss_type='grpo'"),
        ({"loss_type": "sapo", "top_entropy_quantile": 0.5}, "Set loss_type='grpo', top_entropy_quantile=1.0"),
        ({"importance_sampling_level": "sequence"}, "Set importance_sampling_level='token'"),
        ({"off_policy_mask_threshold": 0.5}, "Set off_policy_mask_threshold=None"),
        ({"entropy_coef": 0.01}, "Set entropy_coef=0.0"),
        (
            {"max_completion_length": 8},
            "max_completion_length = 8 .* larger than chunk_size = 8: for two chunks it is 12",
        ),
        ({"token_credit": KTAE()}, "KTAE gives each token its own"),
        ({"advantage": DRPO()}, "DRPO reads the tokens of completions"),
        ({"advantage": SelfVerification()}, "SelfVerification reads the tokens of completions, or generates others"),
        ({"watch_dataset": [{"prompt": "1?", "solution": "1"}]}, "watch_dataset is completed without chunks"),
    ],
)
def test_what_would_be_silently_wrong_is_refused(changes, message, tiny_model, tmp_path):
    with pytest.raises(ValueError, match=message):
        make(tiny_model, tmp_path, **changes)


def test_a_budget_schedule_limits_whole_completions_and_a_history_keeps_their_lengths(tiny_model, tmp_path):
    trainer = make(
        tiny_model,
        tmp_path,
        reward=[tiny.even_reward, HAPOLengthReward()],
        budget_schedule=StagedBudget([6, 14], [1]),
        learning_rate=0.0,
    )
    completions = [[10 + i, *[30 + 2 * i] * (9 + i), EOS] for i in range(8)]
    Script(trainer, completions)
    trainer.train()
    first, second = trainer.rollout.made
    assert {len(chunks) for chunks in traces(first)} == {1} and max(map(len, first.completion_ids)) == 6
    lengths = [sum(sum(mask) for _, mask in chunks) for chunks in traces(second)]
    assert lengths == [min(len(ids), 14) for ids in completions] and max(map(len, second.completion_ids)) == C
    shortest = trainer.history.to_pandas()["shortest"]
    assert sorted(shortest) == [6, 6, min(length - 1 for length in lengths[:4]), min(lengths[4:])]


def test_evaluation_does_not_change_what_training_draws(tiny_model, tmp_path):
    def drawn(**changes):
        trainer = make(tiny_model, tmp_path, max_completion_length=12, learning_rate=0.0, max_steps=2, **changes)
        trainer.train()
        return [traces(made) for made in trainer.rollout.made]

    first, second = drawn()
    evaluated = drawn(eval_strategy="steps", eval_steps=1, eval_on_start=True, per_device_eval_batch_size=16)
    assert evaluated[1] == first and evaluated[3] == second
    assert len(evaluated) == 5 and all(made not in (first, second) for made in evaluated[::2])


def test_groups_are_replaced_with_all_their_chunks(tiny_model, tmp_path):
    rollout = Noted(C, HEAD)
    trainer = make(tiny_model, tmp_path, rollout=rollout, group_filter=DynamicSampling(max_refills=3))
    trainer.train()
    assert len(rollout.made) > 2
    assert max(entry.get("completions/max_length", 0) for entry in trainer.state.log_history) == LIMIT


# Evaluation


def test_evaluation_in_chunks(model, tokenizer, tmp_path):
    widths: list[int] = []
    hook = model.register_forward_pre_hook(partial(note_width, widths), with_kwargs=True)
    rows = demo.problem_dataset(4, split="validation")
    options = {"tokenizer": tokenizer, "max_new_tokens": 70, "temperature": 1.0, "top_p": 1.0, "progress": False}
    (record,) = evaluate(model, {"four": rows}, tmp_path, chunking=Chunking(24, 4), **options)
    hook.remove()
    longest = max(
        len(tokenizer.apply_chat_template(p, add_generation_prompt=True)["input_ids"]) for p in rows["prompt"]
    )
    assert max(widths) <= longest + 24
    assert (record["chunk_size"], record["keep_head"], record["max_new_tokens"]) == (24, 4, 70)
    items = read_completions(tmp_path / "completions.jsonl")
    assert max(item.tokens for item in items) > 24
    for item in items:
        assert item.text == tokenizer.decode(Chunking(24, 4).judged(item.completion_ids), skip_special_tokens=True)
        assert item.truncated == (item.completion_ids[-1] != tokenizer.eos_token_id)
    assert json.loads((tmp_path / "settings.json").read_text())["chunk_size"] == 24
    # The folder cannot have completions of another mode, and a base of another mode is not compared with.
    for other in (None, Chunking(24, 5), Chunking(32, 4)):
        with pytest.raises(ValueError, match="other settings: .*(chunk_size|keep_head)"):
            evaluate(model, {"four": rows}, tmp_path, num_completions=2, chunking=other, **options)
    with pytest.raises(ValueError, match="chunk_size is None, for the base 24"):
        evaluate(model, {"four": rows}, base=tmp_path, **options)
    again = evaluate(model, {"four": rows}, tmp_path, chunking=Chunking(24, 4), budgets=[30], **options)
    assert again[0] == record and again[1]["tokens_mean"] <= 30


class Repeats:
    """Writes the number of tokens of the context, up to the limit; a prompt that begins with 0 is answered with an end."""

    tokenizer = None

    def __init__(self):
        self.end_token_ids = {99}
        self.calls = []

    def sample(self, prompts, settings):
        self.calls.append((prompts, settings))
        return [[len(prompt)] * settings.max_new_tokens if prompt[0] else [7, 99] for prompt in prompts]


def test_only_open_completions_are_continued_each_with_its_own_seed():
    sampler = Repeats()
    drawn = ChunkedSampler(sampler, Chunking(6, 1)).sample([[5, 5], [0], [6]], SamplingSettings(11))
    assert drawn == [[2] * 6 + [5] * 3 + [5] * 2, [7, 99], [1] * 6 + [4] * 3 + [4] * 2]
    contexts, settings = zip(*sampler.calls, strict=True)
    assert contexts[1] == [[5, 5, 2, 2, 2], [6, 1, 1, 1]] and contexts[2] == [[5, 5, 2, 5, 5], [6, 1, 4, 4]]
    assert [one.max_new_tokens for one in settings] == [6, 3, 2] and len({one.seed for one in settings}) == 3
    assert ChunkedSampler(sampler, Chunking(6, 1)).end_token_ids is sampler.end_token_ids


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep_head", "4"], "--keep_head has no effect without --chunk_size"),
        (["--chunk_size", "64"], "less than half of chunk_size = 64, got 100"),
        (["--chunk_size", "4096"], "max_new_tokens = 4096 .* for two chunks it is 6144"),
        (["--chunk_size", "512", "--thinking_budget", "64"], "A thinking budget continues the whole thinking"),
    ],
)
def test_bad_options_of_the_command(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["eval", "demo", "demo", "--output_dir", str(tmp_path), *options])
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
