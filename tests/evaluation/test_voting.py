# SPDX-License-Identifier: Apache-2.0
"""Majority vote and the vote weighted by verdicts: on numbers, with scripted verdicts, and with a model."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trl_concise.cli.commands import main
from trl_concise.evaluation import Completion, Vote, read_summary
from trl_concise.evaluation.chunks import ChunkedSampler, Chunking
from trl_concise.evaluation.sampling import SamplingSettings, TransformersSampler
from trl_concise.evaluation.selection import choose_majority
from trl_concise.evaluation.voting import (
    choose_weighted,
    count_votes,
    find_verdict_token,
    read_verifications,
    vote_weights,
    yes_tokens,
)
from trl_concise.verification.verdicts import CUE, INSTRUCTION


# The weights of the answers

GOLDEN = ([0, 0, 1, 1, 1], [0.9, 0.8, 0.2, 0.3, 0.25])


@pytest.mark.parametrize(
    ("alpha", "weights", "chosen"), [(0.0, [2, 3], 1), (0.1, [1.967452, 2.608459], 1), (1.0, [1.7, 0.75], 0)]
)
def test_golden_values(alpha, weights, chosen):
    assert list(vote_weights(*GOLDEN, alpha).values()) == pytest.approx(weights, abs=1e-6)
    assert GOLDEN[0][choose_weighted(*GOLDEN, alpha)] == chosen


votes_and_scores = st.lists(st.tuples(st.none() | st.integers(0, 3), st.floats(0, 1)), max_size=8)


@given(votes_and_scores)
def test_alpha_0_is_majority_vote(pairs):
    votes, scores = [vote for vote, _ in pairs], [score for _, score in pairs]
    assert choose_weighted(votes, scores, 0.0) == choose_majority(votes)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 100)), min_size=1, max_size=8))
def test_a_large_alpha_takes_the_highest_score(pairs):
    votes, scores = [vote for vote, _ in pairs], [score / 200 for _, score in pairs]
    chosen = votes[choose_weighted(votes, scores, 1e6)]
    assert max(score for vote, score in zip(votes, scores, strict=True) if vote == chosen) == max(scores)


def test_ties_go_to_the_answer_with_more_votes_then_to_the_first():
    assert choose_weighted([0, 1, 1], [0.6, 0.3, 0.3], 1.0) == 1
    assert choose_weighted([3, 1, 1, 3], [0.5] * 4, 2.0) == 0
    assert choose_weighted([0, 1, 1], [0.0] * 3, 1.0) == 1  # nothing was found correct
    assert choose_weighted([None, 2], [0.9, 0.0], 1.0) == 1
    assert choose_weighted([None, None], [1.0, 1.0], 1.0) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("best",), "The vote must be one of majority, verify; got 'best'"),
        (("verify", -1.0), "vote_alpha must be a finite number of at least 0, got -1.0"),
        (("verify", float("nan")), "vote_alpha must be a finite number"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Vote(*arguments)


# With scripted verdicts

PROBLEMS = [[{"role": "user", "content": "What is 4 + 4?"}], [{"role": "user", "content": "What is 5 + 4?"}]]
SCORES = {"7": 0.2, "8": 0.9, "9": 0.3}
WORDS = {"7": "No", "8": "Yes", "9": "Maybe"}


class Scripted:
    """A sampler that verifies by the answer alone."""

    end_token_ids = {1}

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.asked: list[str] = []

    def sample(self, prompts, settings):
        assert settings.temperature == 0 and settings.max_new_tokens == 99
        texts = self.tokenizer.batch_decode(prompts)
        self.asked += texts
        return [
            [*self.tokenizer(f"4+4=8\n</think>\n{CUE} {WORDS[answer]}").input_ids, 1] for answer in map(_answer, texts)
        ]

    def next_token_probabilities(self, prompts, token_ids):
        assert self.tokenizer.batch_decode(token_ids) == ["Y"]
        texts = self.tokenizer.batch_decode(prompts)
        assert all(text.endswith(f"{CUE} ") for text in texts)
        return [SCORES[_answer(text)] for text in texts]


def _answer(text: str) -> str:
    (answer,) = re.findall(r"\\boxed\{(\d)\}", text)
    return answer


def completions(problem: int, gold: str, answers: list[str]) -> list[Completion]:
    """Completions with reasoning; `-` is truncated, `?` ends inside its reasoning."""
    return [
        Completion(
            *("set", problem, k, gold),
            f"secret={answer}" + ("" if answer in "-?" else f"\n</think>\n\\boxed{{{answer}}}"),
            [5] * 10,
            truncated=answer == "-",
            correct=answer == gold,
        )
        for k, answer in enumerate(answers)
    ]


ITEMS = [*completions(0, "8", ["7", "8", "7", "-", "?"]), *completions(1, "9", ["9", "9", "8", "?", "-"])]
SETTINGS = SamplingSettings(99, temperature=1.0)


def test_verdicts_weight_the_votes(tokenizer, tmp_path):
    sampler = Scripted(tokenizer)
    found = count_votes(ITEMS, Vote("verify"), sampler, PROBLEMS, SETTINGS, tmp_path, batch_size=4)
    # Problem 0: 8 with 0.9 against 7 with 0.2 + 0.2. Problem 1: 8 with 0.9 against 9, of which no verification has a verdict.
    assert (found["accuracy"], found["majority_accuracy"]) == (0.5, 0.5)
    assert found["method"] == "verify" and found["alpha"] == 1.0
    assert found["verdict_fraction"] == pytest.approx(4 / 6) and found["verdict_accuracy"] == pytest.approx(3 / 6)
    assert found["difference_interval"] == [-1.0, 1.0]
    items = read_verifications(tmp_path)
    assert [item.verdict for item in items] == [False, True, False, None, None, True]
    assert [item.score for item in items] == [0.2, 0.9, 0.2, 0.0, 0.0, 0.9]
    of_problem = sum(item.tokens for item in items) / 2
    assert found["verification_tokens_mean"] == of_problem and found["tokens_mean"] == 50 + of_problem
    # What was asked: neither reasoning, nor completions without an answer.
    assert len(sampler.asked) == 6 and all(INSTRUCTION in text and "secret" not in text for text in sampler.asked)

    majority = count_votes(ITEMS, Vote("majority"), sampler, PROBLEMS, SETTINGS, tmp_path)
    assert majority["accuracy"] == found["majority_accuracy"] and majority["tokens_mean"] == 50
    assert majority["alpha"] is None and "verdict_fraction" not in majority and len(sampler.asked) == 6
    (mild,) = [count_votes(ITEMS, Vote("verify", 0.0), sampler, PROBLEMS, SETTINGS, tmp_path)]
    assert mild["accuracy"] == majority["accuracy"] and mild["difference_interval"] == [0.0, 0.0]


def test_a_verification_on_file_is_not_written_again(tokenizer, tmp_path):
    sampler = Scripted(tokenizer)
    whole = count_votes(ITEMS, Vote(), sampler, PROBLEMS, SETTINGS, tmp_path, batch_size=2)
    path = tmp_path / "verifications.jsonl"
    lines = path.read_text()
    path.write_text(lines[: lines.index("\n", len(lines) // 2) + 20])  # ended in the middle of a line
    again = Scripted(tokenizer)
    assert count_votes(ITEMS, Vote(), again, PROBLEMS, SETTINGS, tmp_path, batch_size=2) == whole
    assert path.read_text() == lines and 0 < len(again.asked) < 6
    other = [
        *completions(0, "8", ["9", "8", "7", "-", "?"]),
        *ITEMS[5:],
    ]  # another completion than the one that was verified
    changed = Scripted(tokenizer)
    count_votes(other, Vote(), changed, PROBLEMS, SETTINGS, tmp_path)
    assert [_answer(text) for text in changed.asked] == ["9"]
    path.write_text("{}\n")
    with pytest.raises(ValueError, match=r"is damaged .* Delete it; its content is then written again"):
        count_votes(ITEMS, Vote(), sampler, PROBLEMS, SETTINGS, tmp_path)


def test_problems_that_were_not_judged_are_left_out(tokenizer):
    unknown = [Completion("set", 0, k, "?", "</think>\\boxed{8}", [5], False, None) for k in range(2)]
    sampler = Scripted(tokenizer)
    found = count_votes([*unknown, *ITEMS[5:]], Vote(), sampler, PROBLEMS, SETTINGS)
    assert len(sampler.asked) == 3 and found["accuracy"] == 0.0


# With a model


def test_the_place_of_the_verdict_and_its_probability(model, tokenizer):
    ids = tokenizer(f"4+4=8 {CUE} No. ").input_ids
    place = find_verdict_token(tokenizer, ids)
    assert tokenizer.decode(ids[:place]).endswith(f"{CUE} ") and tokenizer.decode(ids[place]) == "N"
    assert find_verdict_token(tokenizer, ids[:place]) is None
    assert tokenizer.batch_decode(yes_tokens(tokenizer)) == ["Y"]
    prompts = [ids[:place], ids[:5]]
    found = TransformersSampler(model, tokenizer).next_token_probabilities(prompts, [20, 30])
    for prompt, probability in zip(prompts, found, strict=True):
        expected = model(torch.tensor([prompt])).logits[0, -1].softmax(dim=-1)[[20, 30]].sum().item()
        assert probability == pytest.approx(expected, rel=1e-3, abs=1e-7)


def test_a_verification_in_chunks_is_scored_in_the_context_of_its_last_chunk(tokenizer):
    chunking, asked = Chunking(24, 4), []

    class Drawn(Scripted):
        def sample(self, prompts, settings):
            self.prompt = self.prompt if asked else prompts[0]
            asked.append(prompts[0])
            ids = [*tokenizer("4+4=8\n</think>\n" + "+".join("1" * 20) + f"\n{CUE} Yes").input_ids, 1]
            done = 0 if len(asked) == 1 else 24 + 12 * (len(asked) - 2)
            return [ids[done : done + settings.max_new_tokens]]

        def next_token_probabilities(self, prompts, token_ids):
            (context,) = prompts
            assert context[: len(self.prompt)] == self.prompt and len(context) <= len(self.prompt) + 24
            assert tokenizer.decode(context).endswith("(Yes/No)? ")
            # The carried part begins with the first tokens of the verification.
            assert context[len(self.prompt) :][:4] == tokenizer("4+4=8").input_ids[:4]
            return [0.7]

    sampler = ChunkedSampler(Drawn(tokenizer), chunking)
    items = [replace(item, problem=0, completion=0) for item in completions(0, "8", ["8"])]
    figures = count_votes(items, Vote(), sampler, PROBLEMS, SamplingSettings(99))
    assert len(asked) > 2 and figures["verdict_fraction"] == 1


def test_the_command_votes(tmp_path, capsys):
    """The embedded model writes no verdicts, so the weighted vote is majority vote. The settings of completions do not change."""
    folder = tmp_path / "out"
    command = ["eval", "demo", "demo", "--limit", "4", "--max_new_tokens", "128", "-n", "3", "--temperature", "1"]
    command += ["--output_dir", str(folder)]
    assert main(command) == 0
    drawn = (folder / "completions.jsonl").read_text()
    for options, name in (
        (["--vote", "majority"], "majority vote"),
        (
            ["--vote", "verify", "--vote_alpha", "0.1", "--budgets", "8"],
            "verify vote, alpha = 0.1",
        ),
    ):
        capsys.readouterr()
        assert main([*command, *options]) == 0
        assert f"Vote: accuracy of {name}" in " ".join(capsys.readouterr().out.split())
    assert (folder / "completions.jsonl").read_text() == drawn
    record, truncated = read_summary(folder)
    assert record["vote"]["alpha"] == 0.1 and "vote" not in truncated
    assert (
        record["vote"]["accuracy"] == record["vote"]["majority_accuracy"] and record["vote"]["verdict_fraction"] == 0
    )
    assert record["vote"]["tokens_mean"] > 3 * record["tokens_mean"]
    assert json.loads((folder / "settings.json").read_text())["vote"] == {"method": "verify", "alpha": 0.1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--vote", "verify"], "num_completions is 1. Set num_completions to 2 or more, or leave the vote out."),
        (["--vote", "majority"], "A vote needs several completions per problem, but num_completions is 1"),
        (["--vote_alpha", "1"], "--vote_alpha has no effect without --vote. Add --vote, or leave it out."),
        (["-n", "2", "--vote", "majority", "--vote_alpha", "0"], "--vote_alpha has no effect with --vote majority."),
        (["-n", "2", "--vote", "verify", "--vote_alpha", "-1"], "must be a finite number of at least 0, got -1.0"),
        (["-n", "2", "--vote", "best"], "invalid choice: 'best'"),
    ],
)
def test_the_command_refuses_what_cannot_vote(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["eval", "demo", "demo", *options, "--output_dir", str(tmp_path / "out")])
    assert exit.value.code == 2 and not (tmp_path / "out").exists()
    assert message in " ".join(capsys.readouterr().err.split())
