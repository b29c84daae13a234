# SPDX-License-Identifier: Apache-2.0
"""Golden values: computed by hand, see docs/experimental/math_rev.md."""

from __future__ import annotations

import itertools
import json
import random
import runpy
import statistics
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig
from trl.chat_template_utils import deepseek_r1_distill_chat_template

from tests.distributed import redi as distributed
from trl_concise import demo
from trl_concise.evaluation import best_of_n
from trl_concise.evaluation.completions import Completion
from trl_concise.experimental.math_rev import (
    VerifierConfig,
    VerifierScore,
    VerifierTrainer,
    arithmetic_program,
    build_verifier_pairs,
    check_consistency,
    check_no_common_problems,
    completion_rows,
    expected_best_of_k,
    run_arithmetic,
    verifier_loss,
)
from trl_concise.experimental.math_rev.data import pair_places
from trl_concise.experimental.math_rev.programs import find_passes
from trl_concise.experimental.selectors import choose_kept, compare_selectors, within_problem_auc
from trl_concise.methods.redi_rows import DataCollatorForREDI


EXAMPLE = Path(__file__).parents[2] / "examples" / "math_rev.py"
CHOSEN = [[-0.2, -0.1, -0.3, -0.2], [-0.5, -0.75], [-0.5, -1.0]]
REJECTED = [[-0.8, -0.4], [-0.25, -0.5, -0.375], [-0.75, -0.75]]


def sums(tokens: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([sum(row) for row in tokens]), torch.tensor([len(row) for row in tokens])


# The loss


def test_golden_losses():
    (chosen, chosen_lengths), (rejected, rejected_lengths) = sums(CHOSEN), sums(REJECTED)
    assert (chosen / chosen_lengths).tolist() == pytest.approx([-0.2, -0.625, -0.75])
    assert (rejected / rejected_lengths).tolist() == pytest.approx([-0.6, -0.375, -0.75])
    losses = verifier_loss(chosen, chosen_lengths, rejected, rejected_lengths, beta=2, gamma=1)
    assert losses.tolist() == pytest.approx([0.798139, 1.701413, 1.313262], abs=1e-6)
    assert losses.mean().item() == pytest.approx(1.270938, abs=1e-6)
    without = verifier_loss(chosen, chosen_lengths, rejected, rejected_lengths, beta=2, gamma=0)
    assert without.tolist() == pytest.approx([0.371101, 0.974077, 0.693147], abs=1e-6)


def test_golden_gradients_of_every_token():
    tokens = [[torch.tensor(row, requires_grad=True) for row in side] for side in (CHOSEN, REJECTED)]
    summed = [torch.stack([row.sum() for row in side]) for side in tokens]
    lengths = [torch.tensor([len(row) for row in side]) for side in tokens]
    verifier_loss(summed[0], lengths[0], summed[1], lengths[1]).mean().backward()
    expected = [(-0.091639, 0.183278), (-0.272525, 0.181683), (-0.243686, 0.243686)]
    for chosen, rejected, (down, up) in zip(*tokens, expected, strict=True):
        assert chosen.grad.tolist() == pytest.approx([down] * len(chosen), abs=1e-6)
        assert rejected.grad.tolist() == pytest.approx([up] * len(rejected), abs=1e-6)


numbers = st.floats(-20, 0)
counts = st.integers(1, 50)


@given(numbers, counts, numbers, counts, st.floats(0.1, 5), st.floats(0, 3), st.integers(1, 5), st.floats(0.01, 5))
def test_the_loss_is_of_means_and_falls_with_the_margin(chosen, m, rejected, n, beta, gamma, times, rise):
    def loss(a, b, k=1):
        a, b = torch.tensor([a * k], dtype=torch.float64), torch.tensor([b * k], dtype=torch.float64)
        return verifier_loss(a, torch.tensor([m * k]), b, torch.tensor([n * k]), beta=beta, gamma=gamma).item()

    before = loss(chosen, rejected)
    assert loss(chosen, rejected, times) == pytest.approx(before)  # every token repeated
    assert loss(chosen + rise, rejected) < before < loss(chosen, rejected + rise)


@pytest.mark.parametrize(("beta", "gamma"), [(0, 1), (-1, 1), (2, -0.1), (float("nan"), 1), (2, float("inf"))])
def test_beta_and_gamma_are_checked(beta, gamma, tmp_path):
    with pytest.raises(ValueError, match="beta must be a finite number above 0, and gamma one of at least 0"):
        verifier_loss(*sums(CHOSEN), *sums(REJECTED), beta=beta, gamma=gamma)
    with pytest.raises(ValueError, match="beta must be a finite number above 0"):
        VerifierConfig(output_dir=str(tmp_path), beta=beta, gamma=gamma, use_cpu=True, bf16=False)


# The trainer


@pytest.fixture
def pairs() -> Dataset:
    return distributed.pairs()


def build(model, pairs, folder, config_class=VerifierConfig, trainer_kwargs=None, **changes) -> VerifierTrainer:
    args = config_class(**distributed.settings(folder, **changes))
    return VerifierTrainer(model, args=args, train_dataset=pairs, **(trainer_kwargs or {}))


def test_loss_metrics_and_scores_are_those_of_a_plain_forward_pass(tiny_model, pairs, tmp_path):
    trainer = build(tiny_model, pairs, tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    loss = trainer.compute_loss(trainer.model, dict(batch))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    means = []
    for side in ("chosen", "rejected"):
        means.append([])
        for pair in pairs.select(range(4)):
            prompt = tokenizer.apply_chat_template(pair["prompt"], add_generation_prompt=True, tokenize=False)
            whole = tokenizer.apply_chat_template(pair["prompt"] + pair[side], tokenize=False)
            ids = tokenizer(whole, return_tensors="pt").input_ids
            logps = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            means[-1].append(logps[len(tokenizer(prompt).input_ids) - 1 :].mean().item())
    ones = torch.ones(4, dtype=torch.long)
    expected = verifier_loss(torch.tensor(means[0]), ones, torch.tensor(means[1]), ones).mean()
    torch.testing.assert_close(loss, expected)
    logged = trainer._metrics["eval"]  # no training has begun
    assert logged["verifier/chosen_logps_per_token"][0] == pytest.approx(statistics.fmean(means[0]), abs=1e-5)
    assert logged["rewards/accuracies"][0] == statistics.fmean(a > b for a, b in zip(*means, strict=True))
    score = VerifierScore(tiny_model, beta=3.0, batch_size=3)  # batches of other sizes
    found = score(pairs["prompt"][:4], pairs["chosen"][:4])
    assert found == pytest.approx([3 * mean for mean in means[0]], abs=1e-4)
    whole = DataCollatorForREDI(pad_token_id=0)([trainer.train_dataset[i] for i in range(4)])
    assert score.tokens == int(whole["attention_mask"][:4].sum())


def test_training_prefers_the_correct_solutions_without_a_reference(tiny_model, pairs, tmp_path):
    forwards = Counter()
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: forwards.update([type(module).__name__])
    )
    try:
        trainer = build(tiny_model, pairs, tmp_path, max_steps=8, learning_rate=3e-3)
        trainer.train()
    finally:
        hook.remove()
    assert forwards["Qwen2Model"] == 8 and trainer.ref_model is None
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert entries[-1]["loss"] < entries[0]["loss"] and entries[-1]["rewards/margins"] > entries[0]["rewards/margins"]
    assert "verifier/rejected_length" in entries[0] and not any(key.startswith("redi/") for key in entries[0])


def test_a_resumed_run_with_an_adapter_equals_the_uninterrupted_run(tiny_model, pairs, tmp_path):
    lora = {"trainer_kwargs": {"peft_config": LoraConfig(r=2, target_modules=["q_proj"])}}
    changes = {"max_steps": 3, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 3, **lora}
    whole = build(tiny_model, pairs, tmp_path / "run", **changes)
    whole.train()
    resumed = build(tiny_model, pairs, tmp_path / "run", **changes)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    for (name, a), (_, b) in zip(whole.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    whole.save_model(tmp_path / "adapter")
    found = VerifierScore(tmp_path / "adapter")(pairs["prompt"][:2], pairs["chosen"][:2])
    expected = VerifierScore(whole.model, whole.processing_class)(pairs["prompt"][:2], pairs["chosen"][:2])
    assert found == pytest.approx(
        expected, rel=1e-2
    )  # PEFT fits the embeddings to the tokenizer, which changes the normalization


def test_texts_and_a_plain_config(tiny_model, tmp_path):
    rows = Dataset.from_list([{"prompt": f"{i} + {i} = ", "chosen": str(2 * i), "rejected": str(i)} for i in range(8)])
    trainer = build(tiny_model, rows, tmp_path, DPOConfig, max_steps=1, per_device_train_batch_size=3)
    assert (trainer.args.beta, trainer.args.gamma) == (2.0, 1.0)
    trainer.train()
    score = VerifierScore(tiny_model, batch_size=1)
    assert len(score(rows["prompt"], rows["chosen"])) == 8 and score([], []) == []


def test_messages_without_text_have_a_score(tiny_model):
    prompt = [{"role": "user", "content": "1 + 1?"}]
    for completion in ([], [{"role": "assistant", "content": ""}]):  # the end token remains
        ids, start = VerifierScore(tiny_model).encode(prompt, completion)
        assert start < len(ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.add_column("weight", [1.0] * 16), "without a `weight`"),
        (lambda rows: rows.rename_column("chosen", "completion"), "pairs with `chosen` and `rejected`"),
    ],
)
def test_rows_that_are_not_pairs_are_refused(change, message, tiny_model, pairs, tmp_path):
    with pytest.raises(ValueError, match=message):
        build(tiny_model, change(pairs), tmp_path)


def test_settings_of_another_loss_are_refused(tiny_model, pairs, tmp_path):
    with pytest.raises(ValueError, match="has no effect in Math-Rev"):
        build(tiny_model, pairs, tmp_path, loss_type=["ipo"])
    with pytest.raises(ValueError, match="Math-Rev uses no reference model"):
        build(tiny_model, pairs, tmp_path, trainer_kwargs={"ref_model": tiny_model})
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        VerifierScore(tiny_model, batch_size=0)
    with pytest.raises(ValueError, match="beta must be"):
        VerifierScore(tiny_model, beta=0.0)
    with pytest.raises(ValueError, match="pass tokenizer="):
        VerifierScore(AutoModelForCausalLM.from_pretrained(tiny_model))
    with pytest.raises(FileNotFoundError, match="was not found"):
        VerifierScore(str(tmp_path / "nothing"))


def test_a_template_that_drops_the_reasoning_is_refused(tiny_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = deepseek_r1_distill_chat_template
    prompt = [{"role": "user", "content": "1 + 1?"}]
    replies = [[{"role": "assistant", "content": f"<think>\n1 + 1 = 2\n</think>\n{answer}"}] for answer in "23"]
    rows = Dataset.from_list([{"prompt": prompt, "chosen": replies[0], "rejected": replies[1]}])
    with pytest.raises(ValueError, match="does not render the whole reply"):
        build(tiny_model, rows, tmp_path, trainer_kwargs={"processing_class": tokenizer})
    with pytest.raises(ValueError, match="does not render the whole reply"):
        VerifierScore(AutoModelForCausalLM.from_pretrained(tiny_model), tokenizer)([prompt], [replies[0]])


def test_the_opening_of_the_reasoning_may_be_left_out(model, tokenizer):
    """Completions of an evaluation lack the `<think>` of the generation prompt, those of pairs have it."""
    score, prompt = VerifierScore(model, tokenizer), [{"role": "user", "content": "What is 27 + 8 - 6?"}]
    text = "27+8=35\n35-6=29\n</think>\n\\boxed{29}"
    forms = [text, f"<think>\n{text}"]
    ids = [score.encode(prompt, [{"role": "assistant", "content": form}]) for form in forms]
    assert ids[0] == ids[1]
    begin = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    assert ids[0][1] == len(tokenizer(begin).input_ids)


# Pairs


def test_golden_pairs():
    assert pair_places([True, False, True, False, False, True]) == [(0, 1), (2, 3), (5, 4)]
    assert pair_places([True, True]) == pair_places([False]) == pair_places([]) == []
    assert pair_places([True, False] * 3, max_pairs=2) == [(0, 1), (2, 3)]


@given(st.lists(st.booleans(), max_size=12), st.integers(1, 5), st.integers())
def test_every_completion_is_used_at_most_once(correct, max_pairs, seed):
    found = pair_places(correct, max_pairs=max_pairs, rng=random.Random(seed))
    used = [place for pair in found for place in pair]
    assert len(used) == len(set(used)) and len(found) == min(sum(correct), len(correct) - sum(correct), max_pairs)
    assert all(correct[right] and not correct[wrong] for right, wrong in found)


def row(prompt: str, completion: str, correct, **more) -> dict:
    return {"prompt": prompt, "completion": completion, "correct": correct, **more}


def test_pairs_of_rows_of_your_own():
    rows = [row("a", "1", True), row("a", "2", False), row("a", "3", None), row("b", "4", True)]
    rows += [
        row("a", "5", False, truncated=True),
        row("c", "6", 0, prompt_sha256="s"),
        row("c", "7", 1, prompt_sha256="s"),
    ]
    found = build_verifier_pairs(rows)
    assert found.to_list() == [
        {"prompt": "a", "chosen": "1", "rejected": "2", "prompt_sha256": None},
        {"prompt": "c", "chosen": "7", "rejected": "6", "prompt_sha256": "s"},
    ]
    many = [row("a", str(i), i % 2 == 0) for i in range(20)]
    one, other, again = (build_verifier_pairs(many, seed=seed).to_list() for seed in (0, 1, 0))
    assert len(one) == 4 and one == again and one != other
    assert build_verifier_pairs([*many, row("z", "1", True), row("z", "2", False)]).to_list()[:4] == one


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("a", "1", None)], "None of the 1 completions has a verdict"),
        ([], "None of the 0 completions has a verdict"),
        ([{"prompt": "a", "completion": "1"}], "A row has no correct"),
        ([row("a", "1", True), row("b", "2", False)], "None of 2 problems has correct and wrong"),
        ([row("a", "1", True), row("a", "2", False, truncated=True)], "'truncated': 1"),
    ],
)
def test_rows_without_pairs_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        build_verifier_pairs(rows)


def completion(
    problem: int, place: int, text: str, correct: bool | None = True, truncated: bool = False
) -> Completion:
    return Completion("set", problem, place, "64", text, [1] * 10, truncated, correct, prompt_sha256=f"p{problem}")


@pytest.fixture
def evaluation(tmp_path):
    """Two problems with two completions each, in the folder of an evaluation."""
    texts = ["27+8=35\n35*2=70\n70-6=64\n</think>\n\\boxed{64}", "27+8=35\n35*2=70\n70-6=65\n</think>\n\\boxed{65}"]
    items = [completion(problem, place, texts[place], place == 0) for problem in (0, 1) for place in (0, 1)]
    (tmp_path / "completions.jsonl").write_text("".join(item.line() for item in items))
    prompts = [[{"role": "user", "content": f"What is {text}?"}] for text in ("(27 + 8) * 2 - 6", "2 * (8 + 27) - 6")]
    return tmp_path, {"set": Dataset.from_dict({"prompt": prompts, "solution": ["64"] * 2})}, items


def test_pairs_and_scores_of_an_evaluation(evaluation, tokenizer, model):
    folder, sets, items = evaluation
    rows = list(completion_rows(folder, sets, tokenizer))
    assert [found["correct"] for found in rows] == [True, False, True, False]
    assert rows[0]["completion"][0]["content"] == f"<think>\n{items[0].text}"
    found = build_verifier_pairs(rows)
    assert [pair["prompt_sha256"] for pair in found] == ["p0", "p1"]
    with pytest.raises(ValueError, match="1 of 2 problems of the pairs are also in the test"):
        check_no_common_problems(found, [items[0]])
    check_no_common_problems(found, [completion(7, 0, "")])
    score = VerifierScore(model, tokenizer)
    (record,) = best_of_n(folder, sets, score, sizes=(2,))
    assert record["best_accuracy"] == 1  # the embedded model finds the right sum more likely
    own = score([row["prompt"] for row in rows], [row["completion"] for row in rows])
    assert compare_selectors(items, {"v": own}, 2)["selectors"]["v"].accuracy == 1
    with pytest.raises(ValueError, match="completions of other problems under the name"):
        list(completion_rows(folder, {"set": sets["set"].select([0])}, tokenizer))


# Programs


def lines(text: str) -> str:
    return text.replace(" / ", "\n")


@pytest.mark.parametrize(
    ("text", "passes", "result"),
    [
        ("27+8=35 / 35*2=70 / 70-6=65 / Wait, let me check. / 27+8=35 / 35*2=70 / 70-6=64", 2, "64"),
        ("27+8=35 / 35*2=70 / 70-6=65", 1, "64"),
        ("First, 27 + 8 = 45. / Then, 45 * 2 = 90. / Then, 90 - 6 = 84.", 1, "64"),
        ("28+8=36 / 36*2=72 / 72-6=66", 1, "66"),
        ("3-5=-2 / -2*4=-8", 1, "-8"),
        ("2*-3=-6 / -6-(-2)=-4", 1, "-4"),
        ("1+2+3=6, x+3=7, 10/2=5, 1.5+2=3.5", 0, None),
        ("The answer is 64.", 0, None),
    ],
)
def test_golden_programs(text, passes, result):
    program = arithmetic_program(lines(text))
    assert len(find_passes(lines(text))) == passes
    assert (run_arithmetic(program) if program is not None else None) == result


def test_a_program_of_huge_numbers_fails():
    nines = "9" * 200
    assert run_arithmetic([("=", int(nines)), ("*", int(nines))]) is None


def test_consistency(evaluation):
    items = evaluation[2][:2]
    words = completion(0, 2, "\\boxed{64}")
    misread = completion(0, 3, "28+8=36\n36*2=72\n72-6=66\n\\boxed{66}", False)
    cut = completion(0, 4, items[0].text, False, truncated=True)
    assert check_consistency([*items, words, misread, cut]) == [True, False, None, True, False]
    assert check_consistency([words], lambda text: text, lambda program: "64.0") == [True]
    assert check_consistency([words], lambda text: text, lambda program: None) == [False]
    with pytest.raises(TypeError, match="must give text or None, got int"):
        check_consistency([words], lambda text: text, lambda program: 64)


# Choosing


def test_golden_choice():
    answers, scores = ["64", "65", "64", None, "70"], [-0.30, -0.22, -0.25, -0.40, -0.21]
    programs = ["64", "64", "64", None, "64"]
    items = [
        completion(0, i, f"\\boxed{{{answer}}}" if answer else "", answer == "64") for i, answer in enumerate(answers)
    ]
    kept = [answer is not None and answer == program for answer, program in zip(answers, programs, strict=True)]
    votes = [0, 1, 0, None, 2]
    assert answers[max(range(5), key=lambda i: scores[i])] == "70"
    assert choose_kept(votes, scores, kept) == 2 and answers[2] == "64"
    assert answers[choose_kept(votes, scores, [False] * 5)] == "70"
    assert choose_kept([None, None], [1, 2], [True, True]) is None
    found = compare_selectors(items, {"v": scores}, 5, kept=kept)
    assert found["selectors"]["v"].accuracy == 0 and found["selectors"]["v, filtered"].accuracy == 1
    assert found["selectors"]["majority, filtered"].accuracy == 1 and found["correct"]["v, filtered"] == [[1.0]]


def test_golden_auc():
    scores, correct = [-0.2, -0.3, -0.25, -0.28, -0.6], [True] * 3 + [False] * 2
    assert within_problem_auc([scores], [correct])[0] == pytest.approx(5 / 6)
    difference, interval = within_problem_auc([scores], [correct], [[0.0] * 5])  # all ties
    assert difference == pytest.approx(5 / 6 - 1 / 2) and interval == pytest.approx((1 / 3, 1 / 3))


@pytest.mark.parametrize(
    ("correct", "expected"), [([1, 0, 0, 0, 1], [0.4, 0.6, 0.7, 0.8, 1.0]), ([0, 1, 1, 0, 1], [0.6, 0.5, 0.4, 0.2, 0])]
)
def test_golden_best_of_k(correct, expected):
    scores = [0.9, 0.1, 0.8, 0.2, 0.5]
    assert [expected_best_of_k(scores, correct, k) for k in range(1, 6)] == pytest.approx(expected)


samples = st.lists(
    st.tuples(st.integers(-3, 3), st.booleans(), st.sampled_from([0, 1, None]), st.booleans()), min_size=1, max_size=7
)


@given(samples, st.data())
def test_the_closed_form_equals_enumeration(drawn, data):
    scores, correct = [score for score, *_ in drawn], [verdict for _, verdict, *_ in drawn]
    k = data.draw(st.integers(1, len(drawn)))
    subsets = list(itertools.combinations(range(len(drawn)), k))
    chosen = [correct[max(subset, key=lambda i: scores[i])] for subset in subsets]  # ties: the first
    assert expected_best_of_k(scores, correct, k) == pytest.approx(statistics.fmean(chosen))
    assert expected_best_of_k([2 * score**3 + 1 for score in scores], correct, k) == expected_best_of_k(
        scores, correct, k
    )
    with pytest.raises(ValueError, match="k must be between 1 and"):
        expected_best_of_k(scores, correct, len(drawn) + 1)


@given(samples)
def test_the_filter_chooses_among_the_given_answers(drawn):
    scores, _, votes, kept = zip(*drawn, strict=True)
    place = choose_kept(votes, scores, kept)
    assert (place is None) == (set(votes) == {None})
    if place is not None:
        assert votes[place] is not None
        assert kept[place] or not any(keeps and vote is not None for keeps, vote in zip(kept, votes, strict=True))
    assert choose_kept(votes, [2 * score**3 + 1 for score in scores], kept) == place


def test_one_completion_leaves_nothing_to_choose(evaluation):
    items = evaluation[2]
    found = compare_selectors(items, {"v": [0.1, 0.2, 0.3, 0.4]}, 1, kept=check_consistency(items))
    assert {selection.accuracy for selection in found["selectors"].values()} == {0.5}
    with pytest.raises(ValueError, match="one finite number per completion; got 3 for 4"):
        compare_selectors(items, {"v": [0.1, 0.2, 0.3]}, 1)
    with pytest.raises(ValueError, match="1 of them missing"):
        compare_selectors(items, {"v": [0.1, 0.2, 0.3, None]}, 1)


# The example


def test_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = """--report_problems 1 --train_problems 3 --train_samples 4 --samples 2 --max_steps 1 --per_device_train_batch_size 2 --max_new_tokens 64
        --disable_tqdm True"""
    monkeypatch.setattr(sys, "argv", ["math_rev.py", *flags.split()])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "| test | verifier, filtered | 2 |" in capsys.readouterr().out
    output = tmp_path / "outputs/math-rev-demo"
    report = json.loads((output / "report.json").read_text())
    assert {row["dataset"] for row in report["selection"]} == {"test", "harder"} and report["pairs"]
    assert len((output / "scores" / "scores.jsonl").read_text().splitlines()) == 8
    assert VerifierScore(output / "verifier").model.num_parameters() == demo_parameters()


def demo_parameters() -> int:
    return AutoModelForCausalLM.from_pretrained(demo.model_path()).num_parameters()


def test_the_example_refuses_bad_input(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["math_rev.py", "--samples", "1"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "--train_samples and --samples must be at least 2" in capsys.readouterr().err
