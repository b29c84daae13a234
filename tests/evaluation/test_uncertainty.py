# SPDX-License-Identifier: Apache-2.0
"""Uncertainty: golden values, and the scores of the embedded model's own completions."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_concise.cli.commands import main
from trl_concise.evaluation import Completion, evaluate, read_completions, read_summary
from trl_concise.evaluation.sampling import SCORED, TransformersSampler, VLLMSampler, tokenize_prompts
from trl_concise.evaluation.token_scores import TokenScores, entropy_bounds, score_logits
from trl_concise.evaluation.uncertainty import (
    SCORES,
    answer_places,
    auc_interval,
    aurc,
    calibration_bins,
    calibration_error,
    describe_tokens,
    read_uncertainty,
    roc_auc,
    summarize_uncertainty,
)


GOLDEN = ([0.9, 0.8, 0.8, 0.4, 0.3, 0.1], [True, False, True, False, True, False])
SETTINGS = {"limit": 6, "max_new_tokens": 48, "temperature": 1.0, "top_p": 1.0, "progress": False}


def test_golden_values_of_a_distribution():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    scores = score_logits(logits, [2])
    assert scores.entropies == pytest.approx([0.947537], abs=5e-7)
    assert scores.entropies[0] / math.log(2) == pytest.approx(1.367007, abs=2e-6)
    assert scores.nlls == pytest.approx([-math.log(0.087144)], abs=1e-5)
    assert score_logits(logits.bfloat16(), [2]).entropies == pytest.approx([0.947537], abs=5e-7)
    p = logits[0].softmax(-1).tolist()
    assert entropy_bounds(p[:2], 4) == pytest.approx((0.878137, 0.960762), abs=2e-6)
    assert entropy_bounds(p, 4) == pytest.approx((0.947537, 0.947537), abs=5e-7)


@settings(max_examples=30)
@given(st.lists(st.floats(-8, 8), min_size=2, max_size=9), st.data())
def test_the_entropy_lies_within_its_bounds(logits, data):
    k = data.draw(st.integers(1, len(logits)))
    p = torch.tensor(logits, dtype=torch.float64).softmax(-1)
    low, high = entropy_bounds(p.sort(descending=True).values[:k].tolist(), len(p))
    exact = float(torch.special.entr(p).sum())
    assert low - 1e-9 <= exact <= high + 1e-9
    if k == len(p):
        assert low == pytest.approx(high)


def test_golden_values_of_a_completion():
    item = Completion("set", 0, 0, "7", "", [1, 2, 3, 4], False, True)
    found = describe_tokens(item, TokenScores([1, 0.2, 0, 0.8], [0.5, 1.5, 0, 0]), range(1, 3))
    assert (found.entropy_mean, found.entropy_max, found.answer_entropy) == (0.5, 1, 0.1)
    assert (found.nll_mean, found.logprob_min, found.topk_mass) == (0.5, -1.5, None)
    assert describe_tokens(item, TokenScores([1, 1, 1, 1], [0, 0, 0, 0]), None).answer_entropy is None


def test_golden_values_of_the_scores():
    scores, wrong = GOLDEN
    assert roc_auc(scores, wrong) == pytest.approx(0.722222, abs=5e-7)
    assert roc_auc([-value for value in scores], wrong) == pytest.approx(0.277778, abs=5e-7)
    assert aurc(scores, wrong) == pytest.approx(0.330556, abs=5e-7)
    bins = calibration_bins([0.95, 0.85, 0.75, 0.35, 0.25], [True, True, False, True, False])
    assert calibration_error(bins) == pytest.approx(0.37)
    assert calibration_bins([1.0], [True])[-1] == {"count": 1, "confidence": 1.0, "accuracy": 1.0}
    assert roc_auc(scores, [True] * 6) is None and auc_interval(scores, [True] * 6, range(6)) is None
    assert calibration_error(calibration_bins([], [])) is None
    low, high = auc_interval(scores * 20, wrong * 20, list(range(120)))
    assert low < 0.722222 < high


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=12))
def test_the_area_and_its_mirror_sum_to_one(pairs):
    scores, wrong = map(list, zip(*pairs, strict=True))
    area, mirrored = roc_auc(scores, wrong), roc_auc([-score for score in scores], wrong)
    assert (area is None) == (len(set(wrong)) == 1)
    assert area is None or area + mirrored == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"27+8=35" "\n" r"\boxed{35}", "35"),
        (r"\boxed{3} \boxed{41}. So 41.", "41"),
        ("It is 35.", None),
    ],
)
def test_the_tokens_of_the_answer(text, inside, tokenizer):
    ids = tokenizer(text, add_special_tokens=False).input_ids + [tokenizer.eos_token_id]
    places = answer_places(tokenizer, ids)
    if inside is None:
        assert places is None
        return
    assert inside in tokenizer.decode([ids[place] for place in places])
    assert len(places) <= len(inside) + 2


def test_scores_do_not_depend_on_batch_padding_or_chunks(model, tokenizer, monkeypatch):
    sampler = TransformersSampler(model, tokenizer)
    prompts = tokenize_prompts(
        tokenizer, [[{"role": "user", "content": text}] for text in ("What is 2 + 3 * 4?", "Hi")]
    )
    completions = [tokenizer(text).input_ids for text in ("2+3=5\n5*4=20", "27+8=35\n35*2=70\n70-6=64")]
    together = sampler.score_tokens(prompts, completions)
    monkeypatch.setattr("trl_concise.evaluation.token_scores.POSITIONS", 3)
    monkeypatch.setattr("trl_concise.evaluation.sampling.LARGEST_LOGITS", 1)
    for own, alone in zip(together, sampler.score_tokens(prompts, completions), strict=True):
        assert own.entropies == pytest.approx(alone.entropies, abs=1e-4) and own.nlls == pytest.approx(
            alone.nlls, abs=1e-4
        )
    with torch.no_grad():
        logps = model(torch.tensor([prompts[0] + completions[0]])).logits[0].log_softmax(-1)
    expected = [-logps[len(prompts[0]) + k - 1, token].item() for k, token in enumerate(completions[0])]
    assert together[0].nlls == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uncertainty") / "run"
    return folder, evaluate("demo", "demo", folder, uncertainty=True, **SETTINGS)


def test_recording_changes_no_completion(recorded, tmp_path):
    folder, (record,) = recorded
    evaluate("demo", "demo", tmp_path, **SETTINGS)
    for name in ("completions.jsonl", "settings.json", "problems.jsonl"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    # and a finished evaluation is scored later, and an interrupted one goes on
    (again,) = evaluate("demo", "demo", tmp_path, uncertainty=True, **SETTINGS)
    assert again == record == read_summary(folder)[0]
    lines = (tmp_path / "uncertainty.jsonl").read_text().splitlines(True)
    (tmp_path / "uncertainty.jsonl").write_text("".join(lines[:2]) + lines[2][:30])
    (again,) = evaluate("demo", "demo", tmp_path, uncertainty=True, **SETTINGS)
    for name in SCORES:
        assert again["uncertainty"][name]["auc"] == pytest.approx(record["uncertainty"][name]["auc"])
    assert len((tmp_path / "uncertainty.jsonl").read_text().splitlines()) == 6


def test_the_figures_are_those_of_the_file(recorded):
    folder, (record,) = recorded
    lines = {row["problem"]: row for row in map(json.loads, (folder / "uncertainty.jsonl").read_text().splitlines())}
    figures = record["uncertainty"]
    items = read_completions(folder / "completions.jsonl")
    right = [lines[item.problem]["nll_mean"] for item in items if item.correct]
    assert figures["nll_mean"]["correct"] == pytest.approx(sum(right) / len(right))
    assert (figures["exact"], figures["topk_mass"]) == (True, None)
    assert sum(found["count"] for found in figures["calibration"]) == 6
    for item in items:
        assert (lines[item.problem]["answer_entropy"] is None) == ("boxed" not in item.text)


def test_a_completion_without_an_answer_is_the_most_uncertain():
    items = [Completion("set", row, 0, "7", "", [1], False, row == 0) for row in range(2)]
    sure = describe_tokens(items[0], TokenScores([9.0], [0.1]), range(1))
    open_ = describe_tokens(items[1], TokenScores([0.0], [0.1]), None)
    found = summarize_uncertainty(items, {(0, 0): sure, (1, 0): open_})
    assert found["answer_entropy"]["auc"] == 1 and found["answer_entropy"]["wrong"] is None
    assert found["entropy_mean"]["auc"] == 0


def test_the_command_and_its_errors(recorded, tmp_path, capsys):
    folder = shutil.copytree(recorded[0], tmp_path / "run")
    arguments = ["--limit", "6", "--max_new_tokens", "48", "--temperature", "1", "--top_p", "1"]
    assert main(["eval", "demo", "demo", *arguments, "--record", "uncertainty", "--output_dir", str(folder)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "ROC-AUC of errors" in printed and (folder / "calibration.png").is_file()
    with pytest.raises(SystemExit):
        main(
            [
                "eval",
                "demo",
                "demo",
                "--record",
                "uncertainty",
                "--chunk_size",
                "300",
                "--output_dir",
                str(tmp_path / "a"),
            ]
        )
    assert "Completions in chunks have no uncertainty" in capsys.readouterr().err
    (folder / "uncertainty.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="uncertainty.jsonl is damaged"):
        evaluate("demo", "demo", folder, uncertainty=True, **SETTINGS)


def test_scores_of_other_completions_are_not_taken(recorded):
    """For example after `completions.jsonl` was deleted, and drawn again with another batch size."""
    folder, _ = recorded
    items = read_completions(folder / "completions.jsonl")
    assert len(read_uncertainty(folder, items)) == 6
    others = [replace(items[0], completion_ids=items[0].completion_ids[:-1]), replace(items[1], prompt_sha256="0")]
    assert list(read_uncertainty(folder, [*others, *items[2:]])) == [(row, 0) for row in range(2, 6)]


def test_vllm_scores_some_completions_at_a_time(monkeypatch):
    """Its objects for 20 likely tokens at each position of 10,000 completions do not fit into memory."""
    sizes = []
    monkeypatch.setattr(VLLMSampler, "_score", lambda self, prompts, ids: sizes.append(len(ids)) or ids)
    sampler = VLLMSampler.__new__(VLLMSampler)
    completions = [[row] for row in range(2 * SCORED + 1)]
    assert sampler.score_tokens(completions, completions) == completions and sizes == [SCORED, SCORED, 1]
