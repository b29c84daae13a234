# SPDX-License-Identifier: Apache-2.0
"""ScaleBiO: the equations, dividing and drawing by shares, training. Golden values are those of the specification, computed by hand."""

from __future__ import annotations

import json
import math
import runpy
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from trl import SFTConfig

from tests import slot_rows, tiny
from tests.distributed import scale_bio as distributed
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, demo
from trl_concise.demo.mixture import source_datasets
from trl_concise.experimental.scale_bio import (
    ScaleBiOConfig,
    ScaleBiOTrainer,
    SourceMixture,
    bilevel_loss,
    divide_rows,
    effective_sources,
    load_sources,
    mix_sources,
    read_shares,
    share_gradient,
)
from trl_concise.experimental.scale_bio_sampling import StratifiedSampler


tensor = torch.tensor
LOGITS = [0.0, math.log(3)]


# The equations


def test_golden_shares_and_gradients():
    logits = tensor(LOGITS, requires_grad=True)
    shares = logits.softmax(0)
    assert shares.tolist() == pytest.approx([0.25, 0.75])
    (shares * tensor([2.0, 4.0])).sum().backward()
    assert (shares * tensor([2.0, 4.0])).sum().item() == pytest.approx(3.5)
    assert logits.grad.tolist() == pytest.approx([-0.375, 0.375])

    gradient = share_gradient(logits.detach(), tensor([2.0, 4.0]), tensor([1.9, 3.5]), alpha=10)
    assert gradient.tolist() == pytest.approx([-0.75, 0.75], abs=1e-5)
    moved = logits.detach() - 0.1 * gradient
    assert moved.tolist() == pytest.approx([0.075, 1.023612], abs=1e-5)
    assert moved.softmax(0).tolist() == pytest.approx([0.279164, 0.720836], abs=1e-6)


def test_the_wrong_gradients_of_the_preview():
    """Of means over micro-batches, and of a source that is missing from the batch."""
    uniform = torch.zeros(2)

    def loss(sources, losses, counts):
        return bilevel_loss(
            uniform, tensor(sources), tensor(losses), torch.zeros(len(losses)), tensor(counts), tensor(0.0), alpha=1
        ).item()

    whole = loss([0, 0], [1.0, 3.0], [3.0, 1.0]) + loss([0, 1], [5.0, 4.0], [3.0, 1.0])
    assert whole == pytest.approx(3.5)
    assert (0.5 * 2.0 + 0.5 * (5 + 4)) / 2 == pytest.approx(2.75)  # a mean per micro-batch, averaged: another number
    assert share_gradient(uniform, tensor([0.4, 0.0]), torch.zeros(2), alpha=10).tolist() == pytest.approx([1.0, -1.0])


def quadratic_step(w, u, logits, *, alpha=10.0, v=0.8, centers=(0.0, 1.0), rate=0.05, share_rate=1.0):
    """One simultaneous SGD step of the scalar model, by the backward pass of `bilevel_loss`."""
    w, u, logits = (value.clone().requires_grad_() for value in (w, u, logits))
    sources = torch.arange(len(centers))
    losses, tracked = ((m - tensor(centers, dtype=m.dtype)) ** 2 / 2 for m in (w, u))
    counts = torch.ones(len(centers), dtype=w.dtype)
    bilevel_loss(logits, sources, losses, tracked, counts, (w - v) ** 2 / 2, alpha=alpha).backward()
    steps = [(w, rate), (u, rate), (logits, share_rate)]
    return [(value - size * value.grad).detach() for value, size in steps], logits.grad


@pytest.mark.parametrize(
    ("alpha", "w", "gradient"), [(1, 0.65, 0.0375), (10, 0.527273, 0.068182), (100, 0.50297, 0.074257)]
)
def test_golden_gradient_of_the_quadratic_problem(alpha, w, gradient):
    best = (0.8 + alpha * 0.5) / (1 + alpha)  # of w, for uniform shares; that of u is 0.5
    assert best == pytest.approx(w, abs=1e-6)
    (new_w, new_u, _), grad = quadratic_step(
        tensor(best).double(), tensor(0.5).double(), torch.zeros(2).double(), alpha=alpha
    )
    assert (new_w.item(), new_u.item()) == pytest.approx((best, 0.5), abs=1e-6)  # both are optima
    assert grad.tolist() == pytest.approx([gradient, -gradient], abs=1e-6)
    assert gradient == pytest.approx(alpha / (1 + alpha) * 0.075, abs=1e-6)  # of the true gradient


def test_golden_path_of_the_quadratic_problem():
    state = [tensor(0.3).double(), tensor(0.3).double(), torch.zeros(2).double()]
    path = []
    for _ in range(400):
        state, _ = quadratic_step(*state)
        path.append((state[0].item(), state[1].item(), state[2].softmax(0)[1].item()))
    golden = [(0.425, 0.4, 0.5), (0.48125, 0.45, 0.531209), (0.522167, 0.490605, 0.569703)]
    for got, expected in zip(path, golden, strict=False):
        assert got == pytest.approx(expected, abs=1e-6)
    assert path[-1] == pytest.approx((0.8, 0.8, 0.8), abs=1e-3)


numbers = st.floats(-3, 3, width=32)


@given(
    st.integers(2, 4).flatmap(
        lambda k: st.tuples(*[st.lists(numbers, min_size=k, max_size=k)] * 3, st.permutations(range(k)))
    )
)
def test_the_loss_has_the_gradients_of_the_formulas(values):
    logits, w, u, order = values
    logits, w, u = (tensor(value).double() for value in (logits, w, u))

    def gradients(logits, w, u):
        given_ = [value.clone().requires_grad_() for value in (logits, w, u)]
        sources = torch.arange(len(w))
        loss = bilevel_loss(given_[0], sources, given_[1], given_[2], torch.ones_like(w), tensor(0.0), alpha=7.0)
        assert loss.item() == pytest.approx(7 * (logits.softmax(0) * w).sum().item(), abs=1e-6)
        return torch.autograd.grad(loss, given_)

    shares = logits.softmax(0)
    of_shares, of_w, of_u = gradients(logits, w, u)
    closed = share_gradient(logits, w, u, alpha=7.0)
    torch.testing.assert_close(of_shares, closed)
    torch.testing.assert_close(of_w, 7 * shares)
    torch.testing.assert_close(of_u, 7 * shares)  # u descends alpha L2(u)
    assert closed.sum().item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(share_gradient(logits + 1.5, w, u, alpha=7.0), closed)
    assert share_gradient(logits, w, w, alpha=7.0).abs().max() == 0
    torch.testing.assert_close(share_gradient(logits[order], w[order], u[order], alpha=7.0), closed[order])
    equal = share_gradient(torch.zeros_like(w), w[:1].expand_as(w), u[:1].expand_as(u), alpha=7.0)
    assert equal.abs().max().item() == pytest.approx(0, abs=1e-6)


# Dividing and drawing


def test_golden_rows():
    assert divide_rows([0.25, 0.35, 0.40], 10) == [3, 3, 4]
    assert divide_rows([0.62, 0.23, 0.15], 7) == [4, 2, 1]
    assert divide_rows([0.5, 0.3, 0.2], 100, [20, 100, 100]) == [20, 48, 32]
    assert effective_sources([0.25, 0.75]) == pytest.approx(1.754765, abs=1e-6)
    assert effective_sources([1.0, 0.0]) == 1


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 60)), min_size=1, max_size=6), st.integers(0, 100))
def test_rows_sum_to_the_size_and_never_exceed_a_source(sources, size):
    weights = [weight for weight, _ in sources]
    if not sum(weights):
        return
    shares, available = [weight / sum(weights) for weight in weights], [rows for _, rows in sources]
    if size > sum(rows for weight, rows in sources if weight):
        with pytest.raises(ValueError, match="cannot be taken"):
            divide_rows(shares, size, available)
        return
    taken = divide_rows(shares, size, available)
    assert sum(taken) == size and all(0 <= own <= rows for own, rows in zip(taken, available, strict=True))
    assert all(own == 0 for own, weight in zip(taken, weights, strict=True) if not weight)


def test_a_mixture_is_drawn_by_shares():
    sources = distributed.sources()
    shares = {"a": 0.5, "b": 0.3, "c": 0.2}
    mixed = mix_sources(sources, shares, 20, seed=3)
    assert [mixed["source"].count(name) for name in "abc"] == [10, 6, 4]
    assert mixed.column_names == ["prompt", "completion", "source"]
    assert len({row["prompt"][0]["content"] for row in mixed}) == 20  # no row twice
    assert mix_sources(sources, shares, 20, seed=3).to_list() == mixed.to_list()
    assert mix_sources(sources, shares, 20, seed=4).to_list() != mixed.to_list()
    assert mix_sources(sources, {"a": 1.0, "b": 0.0, "c": 0.0}, 12)["source"] == ["a"] * 12
    with pytest.raises(ValueError, match=r"35 rows|sources with a share have 35"):
        mix_sources(sources, shares, 36)
    with pytest.raises(ValueError, match="shares of"):
        mix_sources(sources, {"a": 1.0}, 2)
    with pytest.raises(ValueError, match="sum to 1"):
        mix_sources(sources, {"a": 0.5, "b": 0.3, "c": 0.3}, 2)
    with pytest.raises(ValueError, match="at least 0"):
        effective_sources([1.5, -0.5])
    with pytest.raises(ValueError, match="no column"):
        mix_sources({"a": sources["a"], "b": Dataset.from_list([{"text": "x"}])}, {"a": 0.5, "b": 0.5}, 2)
    with pytest.raises(ValueError, match="different types"):
        other = distributed.rows(3, "b", conversational=False)
        mix_sources({"a": sources["a"], "b": other}, {"a": 0.5, "b": 0.5}, 2)


def test_sources_are_named_by_their_files(tmp_path):
    for path in ("one/x.jsonl", "two/x.jsonl", "two/y.jsonl"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        distributed.rows(2, path[0]).to_json(tmp_path / path)
    assert list(load_sources([tmp_path / "one/x.jsonl", tmp_path / "two/y.jsonl"])) == ["x", "y"]
    with pytest.raises(ValueError, match=r"names \['x'\]"):
        load_sources([tmp_path / "one/x.jsonl", tmp_path / "two/x.jsonl"])
    with pytest.raises(ValueError, match=r"not a mixture.json"):
        read_shares(tmp_path)


@given(st.integers(1, 5), st.integers(3, 20), st.lists(st.integers(1, 9), min_size=3, max_size=3))
def test_steps_are_stratified(validation, training, sizes):
    rows, groups = iter(range(1000)), {}
    for name, size in zip(["x", "y", "z", ""], [*sizes, 4], strict=True):
        groups[name] = [next(rows) for _ in range(size)]
    step = 0
    sampler = StratifiedSampler(groups, validation, training, lambda: step, seed=1)
    order = list(sampler)
    width = validation + training
    assert len(order) == len(sampler) == max(sum(sizes) // training, 1) * width
    for first in range(0, len(order), width):
        drawn = [name for row in order[first : first + width] for name, own in groups.items() if row in own]
        counts = [drawn.count(name) for name in "xyz"]
        assert drawn.count("") == validation and max(counts) - min(counts) <= 1 and min(counts) >= 1
    visits = [row for row in order if row in groups["x"]]
    assert len(set(visits[: sizes[0]])) == min(sizes[0], len(visits))  # each once, before any is visited again
    step = sampler.steps_per_epoch
    assert list(sampler)[:width] == sampler.rows_of_step(step)  # the next epoch continues


# The selector


def rows_of(*names: str) -> list[dict]:
    return [{"prompt_key": str(i), "source": name} for i, name in enumerate(names)]


def test_golden_order_of_the_deficit_rule():
    selector = SourceMixture({"x": 0.5, "y": 0.3, "z": 0.2})
    drawn = []
    for _ in range(10):
        (position,) = selector.choose(rows_of("z", "y", "x"), 1, 0)
        drawn.append(2 - position)
    assert drawn == [0, 1, 2, 0, 0, 1, 0, 2, 1, 0]
    assert list(selector.drawn.values()) == [5, 3, 2]


def test_a_source_without_a_candidate_is_drawn_later():
    selector = SourceMixture({"x": 0.5, "y": 0.5})
    assert selector.choose(rows_of("x", "x", "x"), 2, 0) == [0, 1]
    assert selector.choose(rows_of("x", "y", "y"), 2, 0) == [1, 2]
    restored = SourceMixture({"x": 0.5, "y": 0.5})
    restored.load_state_dict(selector.state_dict())
    assert restored.drawn == {"x": 2, "y": 2}
    excluding = SourceMixture({"x": 1.0, "y": 0.0})
    assert excluding.choose(rows_of("y", "x"), 1, 0) == [1]
    with pytest.raises(ValueError, match="Only 1 of 2 prompts"):
        excluding.choose(rows_of("y", "x"), 2, 0)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"x": 0.5, "y": 0.4}, "sum to 1"),
        ({}, "at least 0"),
        ({"x": 1.0}, r"\['y'\] of the dataset have no share"),
        ({"x": 0.4, "y": 0.4, "z": 0.2}, r"\['z'\] have a share"),
    ],
)
def test_a_mixture_of_prompts_needs_a_share_for_every_source(tiny_model, tmp_path, shares, message):
    dataset = Dataset.from_list([{**row, "source": "xy"[i % 2]} for i, row in enumerate(slot_rows.PROBLEMS)])
    with pytest.raises(ValueError, match=message):
        ConciseGRPOTrainer(
            tiny_model,
            slot_rows.correct_if_even,
            args=ConciseGRPOConfig(**tiny.settings(tmp_path)),
            train_dataset=dataset,
            prompt_selector=SourceMixture(shares),
        )


def test_a_mixture_of_prompts_needs_the_column(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="needs the column 'source'"):
        ConciseGRPOTrainer(
            tiny_model,
            slot_rows.correct_if_even,
            args=ConciseGRPOConfig(**tiny.settings(tmp_path)),
            train_dataset=slot_rows.problems(),
            prompt_selector=SourceMixture({"x": 1.0}),
        )
    with pytest.raises(ValueError, match="candidates_per_prompt must be"):
        SourceMixture({"x": 1.0}, candidates_per_prompt=0)


# Training


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory):
    """A run with a checkpoint after its first step."""
    folder = tmp_path_factory.mktemp("scale_bio")
    return distributed.train(tiny_model, folder, save_strategy="steps", save_steps=1, save_total_limit=3)


def check_equal(one, other, tolerance: float = 1e-5):
    """Compare two runs: the weights of both models, the shares, all that is logged and all files."""
    one, other = (distributed.report(run) if isinstance(run, ScaleBiOTrainer) else run for run in (one, other))
    assert one["weights"].keys() == other["weights"].keys()
    for name, value in one["weights"].items():
        torch.testing.assert_close(other["weights"][name], value, atol=tolerance, rtol=1e-3, msg=name)
    assert other["shares"] == pytest.approx(one["shares"], abs=tolerance)
    for key in ("lines", "logged"):
        assert len(one[key]) == len(other[key])
        for first, second in zip(one[key], other[key], strict=True):
            assert first.keys() == second.keys()
            for name, value in first.items():
                assert second[name] == pytest.approx(value, abs=1e-4, rel=1e-3), name
    for first, second in zip(one["mixture"]["sources"], other["mixture"]["sources"], strict=True):
        assert second == pytest.approx(first, abs=tolerance) if first["taken"] else first.keys() == second.keys()
    assert other["mixture"]["validation_loss_before"] == pytest.approx(
        one["mixture"]["validation_loss_before"], abs=1e-4
    )


def test_a_run_writes_what_it_learned(whole, tiny_model):
    """The first two steps are recomputed with plain models, three gradients and plain SGD."""
    report = distributed.report(whole)
    first, second, third = report["lines"]
    assert first["losses"] == first["tracker_losses"] and first["shares"] == second["shares"]  # w = u: the shares stay
    for line, before, after in ((second, second["shares"], third["shares"]), (third, third["shares"], whole.shares)):
        w, u = (tensor(list(line[key].values())) for key in ("losses", "tracker_losses"))
        logits = tensor(list(before.values())).log()
        moved = (logits - share_gradient(logits, w, u, alpha=10.0)).softmax(0)
        assert moved.tolist() == pytest.approx(list(after.values()), abs=1e-5)
    assert whole.shares["a"] > 0.4 and min(whole.shares.values()) > 0  # the validation set is like this source
    assert sum(whole.shares.values()) == pytest.approx(1)
    mixture = report["mixture"]
    assert [row["name"] for row in mixture["sources"]] == ["a", "b", "c"]
    assert [row["rows"] for row in mixture["sources"]] == [12, 9, 14]
    assert read_shares(whole.args.output_dir) == pytest.approx(whole.shares)
    assert mixture["validation_loss_after"] < mixture["validation_loss_before"]
    assert "another model can need others" in mixture["note"] and str(tiny_model) not in json.dumps(mixture)

    # The first step, from the rows themselves.
    sampler = whole._get_train_sampler()
    rows = [whole.train_dataset[row] for row in sampler.rows_of_step(0)]
    model = tiny.load(tiny_model)
    by_source: dict[int, list] = {0: [], 1: [], 2: [], -1: []}
    for row in rows:
        ids, labels = tensor([row["input_ids"]]), tensor([row["labels"]])[:, 1:]
        logps = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
        by_source[row["scale_bio_source"]].append(
            -logps.gather(2, labels.clamp(min=0)[..., None])[..., 0][labels != -100]
        )
    means = [torch.stack([row.mean() for row in by_source[k]]).mean() for k in range(3)]
    validation = torch.cat(by_source[-1]).mean()
    assert [mean.item() for mean in means] == pytest.approx(list(first["losses"].values()), rel=1e-5)
    assert validation.item() == pytest.approx(first["validation_loss"], rel=1e-5)
    parameters = list(model.parameters())
    penalty = 10 * sum(means) / 3
    of_w = torch.autograd.grad(validation + penalty, parameters, retain_graph=True)
    of_u = torch.autograd.grad(penalty, parameters)
    checkpoint = tiny.load(str(Path(whole.args.output_dir, "checkpoint-1")))
    for before, gradient, after in zip(parameters, of_w, checkpoint.parameters(), strict=True):
        torch.testing.assert_close(after, before - 0.02 * gradient, atol=1e-5, rtol=1e-4)
    from safetensors.torch import load_file

    tracker = load_file(Path(whole.args.output_dir, "checkpoint-1", "scale_bio.safetensors"))
    for (name, before), gradient in zip(model.named_parameters(), of_u, strict=True):
        torch.testing.assert_close(tracker[f"tracker.{name}"], before - 0.02 * gradient, atol=1e-5, rtol=1e-4)


def test_micro_batches_change_nothing(whole, tiny_model, tmp_path):
    split = distributed.train(tiny_model, tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=16)
    check_equal(whole, split)


def test_two_processes_equal_one(whole, two_processes):
    ranks = [torch.load(two_processes / "scale_bio" / f"rank{rank}.pt") for rank in (0, 1)]
    assert [rank["world_size"] for rank in ranks] == [2, 2]
    check_equal(ranks[0], ranks[1], tolerance=1e-7)
    check_equal(whole, ranks[0])


def test_a_resumed_run_ends_with_the_same_shares(tiny_model, tmp_path):
    settings = {
        "optim": "adamw_torch",
        "learning_rate": 1e-3,
        "share_learning_rate": 0.1,
        "tracker_learning_rate": 2e-3,
    }
    settings |= {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}  # 3 steps per epoch
    one = distributed.train(tiny_model, tmp_path, **settings)
    expected = distributed.report(one)
    again = distributed.train(tiny_model, tmp_path, str(tmp_path / "checkpoint-2"), **settings)
    found = distributed.report(again)
    assert found["shares"] == expected["shares"] and found["lines"] == expected["lines"]
    assert found["mixture"] == expected["mixture"]
    assert all(torch.equal(value, found["weights"][name]) for name, value in expected["weights"].items())
    finished = distributed.train(tiny_model, tmp_path, str(tmp_path / "checkpoint-4"), **settings)
    assert distributed.report(finished)["mixture"] == expected["mixture"]
    options = {"train_dataset": dict(reversed(distributed.sources().items()))}
    with pytest.raises(ValueError, match="has another format"):
        distributed.train(tiny_model, tmp_path, str(tmp_path / "checkpoint-2"), options, **settings)
    (tmp_path / "checkpoint-2" / "scale_bio.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"scale_bio\.safetensors does not exist"):
        distributed.train(tiny_model, tmp_path, str(tmp_path / "checkpoint-2"), **settings)


def test_an_adapter_is_trained_and_resumed(tiny_model, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2, "learning_rate": 0.1}

    def run(folder, resume=None):
        options = {"peft_config": LoraConfig(r=2, target_modules=["q_proj", "v_proj"])}
        return distributed.train(tiny_model, folder, resume, options, **settings)

    one = run(tmp_path)
    names = {name for name, value in one._pair.named_parameters() if value.requires_grad}
    assert all("lora" in name or name == "share_logits" for name in names) and any(
        name.startswith("tracker.") for name in names
    )
    assert one.shares["a"] != pytest.approx(1 / 3, abs=1e-9)
    assert (
        distributed.report(run(tmp_path, str(tmp_path / "checkpoint-1")))["lines"] == distributed.report(one)["lines"]
    )


def test_settings_reach_the_optimizer(tiny_model, tmp_path):
    trainer = distributed.train(
        tiny_model,
        tmp_path,
        trainer_kwargs={
            "train_dataset": distributed.sources(conversational=False),
            "validation_dataset": distributed.validation(conversational=False),
        },
        optim="adamw_torch",
        weight_decay=0.1,
        share_weight_decay=0.2,
        tracker_learning_rate=3e-3,
        max_steps=1,
        mixture_size=30,
        num_train_epochs=3,
    )
    groups = [
        (group["initial_lr"], group["weight_decay"], len(group["params"])) for group in trainer.optimizer.param_groups
    ]
    assert [(rate, decay) for rate, decay, _ in groups] == [
        (0.02, 0.1),
        (0.02, 0.0),
        (3e-3, 0.1),
        (3e-3, 0.0),
        (1.0, 0.2),
    ]
    assert sum(count for *_, count in groups) == 2 * len(list(trainer.model.parameters())) + 1
    mixture = json.loads((tmp_path / "mixture.json").read_text())
    assert sum(row["taken"] for row in mixture["sources"]) == 30
    assert trainer.evaluate(distributed.rows(3, "b", conversational=False))["eval_loss"] > 0


def test_defaults_are_the_authors():
    args = ScaleBiOConfig("folder", use_cpu=True, bf16=False)
    assert (args.alpha, args.learning_rate, args.share_learning_rate, args.max_grad_norm) == (100.0, 1e-5, 1e-2, 100.0)
    assert (args.lr_scheduler_type, args.warmup_steps, args.num_train_epochs, args.share_weight_decay) == (
        "cosine",
        0.03,
        1.0,
        0.0,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 0.0}, "alpha must be above 0"),
        ({"share_learning_rate": -1.0}, "share_learning_rate must be at least 0"),
        ({"tracker_learning_rate": -1.0}, "tracker_learning_rate must be at least 0"),
        ({"validation_rows": 0}, "validation_rows must be at least 1"),
        ({"validation_rows": 14}, "one of each of the 3 sources"),
        ({"per_device_train_batch_size": 4, "validation_rows": None}, "one of each of the 3 sources"),
        ({"packing": True}, "packing=True is not supported"),
        ({"loss_type": "dft"}, "loss_type='dft' is not supported"),
        ({"mixture_size": 36}, "36 rows cannot be taken"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size=True is not supported"),
        ({"max_length": 4}, "Raise max_length"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tiny_model, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        ScaleBiOTrainer(
            tiny_model,
            ScaleBiOConfig(**distributed.settings(tmp_path, **changes)),
            train_dataset=distributed.sources(),
            validation_dataset=distributed.validation(),
        )


SOURCES = distributed.sources()


@pytest.mark.parametrize(
    ("sources", "validation", "error", "message"),
    [
        ({"a": SOURCES["a"]}, None, ValueError, r"two sources or more, got \['a'\]"),
        ({"a": SOURCES["a"], "b": SOURCES["b"].select([])}, None, ValueError, r"\['b'\] have no rows"),
        ({"": SOURCES["a"], "b": SOURCES["b"]}, None, ValueError, r"must be texts, got \[''\]"),
        (SOURCES, SOURCES["a"].select([]), ValueError, "validation set has no rows"),
        (SOURCES, SOURCES["b"].select(range(4)), ValueError, r"4 different rows .*\{'b': 4\}"),
        (SOURCES["a"], None, TypeError, "dict of sources"),
        ({"a": SOURCES["a"], "b": SOURCES["b"].to_iterable_dataset()}, None, TypeError, "streams are not supported"),
        (SOURCES, "missing", TypeError, "validation_dataset must be a Dataset"),
    ],
)
def test_data_that_do_not_fit_are_refused(tiny_model, tmp_path, sources, validation, error, message):
    validation = distributed.validation() if validation is None else validation
    with pytest.raises(error, match=message):
        ScaleBiOTrainer(
            tiny_model,
            SFTConfig(str(tmp_path), use_cpu=True, bf16=False),
            train_dataset=sources,
            validation_dataset=None if isinstance(validation, str) else validation,
        )


def test_a_step_without_a_source_is_refused(tiny_model, tmp_path):
    class Careless(ScaleBiOTrainer):
        def _get_train_sampler(self, dataset=None):
            return [row for row, source in enumerate(self.train_dataset["scale_bio_source"]) if source in (0, -1)]

    trainer = Careless(
        tiny_model,
        ScaleBiOConfig(**distributed.settings(tmp_path)),
        train_dataset=distributed.sources(),
        validation_dataset=distributed.validation(),
    )
    with pytest.raises(ValueError, match=r"no row of \['b', 'c'\]"):
        trainer.train()
    with pytest.raises(ValueError, match="Leave optimizers out"):
        ScaleBiOTrainer(
            tiny_model,
            ScaleBiOConfig(**distributed.settings(tmp_path)),
            train_dataset=distributed.sources(),
            validation_dataset=distributed.validation(),
            optimizers=(torch.optim.SGD(trainer.model.parameters(), lr=0.1), None),
        )


# The example


def run_example(folder, monkeypatch, *options: str) -> None:
    path = Path(__file__).parents[2] / "examples" / "scale_bio.py"
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [path.name, *options])
    runpy.run_path(str(path), run_name="__main__")


def test_the_example_prints_its_tables(tmp_path, monkeypatch, capsys):
    run_example(
        tmp_path,
        monkeypatch,
        *"--max_steps 1 --report_problems 1 --demo_rows 12 --demo_validation_rows 4".split(),
        *"--per_device_train_batch_size 8".split(),
    )
    printed = capsys.readouterr().out
    assert "effective number of sources" in printed and "| learned mixture |" in printed
    folder = tmp_path / "outputs" / "scale-bio-demo"
    results = json.loads((folder / "results.json").read_text())
    assert len(results) == 10 and {record["rows"] for record in results} == {0, 4, 12}
    assert len((folder / "mixed.jsonl").read_text().splitlines()) == 12


def test_the_example_reads_files(tmp_path, monkeypatch, capsys):
    sources = source_datasets(8)
    for name, rows in sources.items():
        rows.to_json(tmp_path / f"{name}.jsonl")
    source_datasets(10)["correct"].select([8, 9]).to_json(tmp_path / "held_out.jsonl")
    names = [f"{name}.jsonl" for name in sources]
    files = ["--sources", *names, "--validation", "held_out.jsonl", "--model_name_or_path", str(demo.model_path())]
    options = (
        "--max_steps 1 --output_dir out --mixture_size 6 --include_validation --use_cpu --bf16 False --report_to none"
    )
    run_example(tmp_path, monkeypatch, *files, *options.split())
    mixed = [json.loads(line) for line in (tmp_path / "out" / "mixed.jsonl").read_text().splitlines()]
    assert [row["source"] for row in mixed].count("validation") == 2 and len(mixed) == 8
    assert json.loads((tmp_path / "out" / "mixture.json").read_text())["includes_validation"]
    with pytest.raises(SystemExit):
        run_example(tmp_path, monkeypatch, "--sources", *names)
    assert "--validation" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_example(tmp_path, monkeypatch, "--dry_run")
    assert "none: `trl-concise plan` does not know scale_bio" in capsys.readouterr().out  # not a plan of GRPO


@pytest.mark.slow  # a minute
def test_the_wrong_source_loses_weight(tmp_path):
    """Three sources of demo traces, with the validation set of the correct ones."""
    sources = source_datasets(600)
    args = ScaleBiOConfig(
        **{
            **distributed.settings(tmp_path),
            "max_steps": 60,
            "per_device_train_batch_size": 48,
            "validation_rows": None,
        },
    )
    args.learning_rate, args.share_learning_rate, args.optim = 3e-4, 0.1, "adamw_torch"
    trainer = ScaleBiOTrainer(
        AutoModelForCausalLM.from_pretrained(demo.model_path()),
        args,
        train_dataset={name: rows.select(range(512)) for name, rows in sources.items()},
        validation_dataset=sources["correct"].select(range(512, 600)),
    )
    trainer.train()
    assert trainer.shares["wrong"] < 1 / 3 < trainer.shares["correct"]
