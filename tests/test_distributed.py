# SPDX-License-Identifier: Apache-2.0
"""Two real processes."""

from __future__ import annotations

import json

import pytest

from tests.distributed import critiques, lengths, resuming, rows, run_on_processes, selecting, straddle, token_credit


def test_a_group_that_straddles_processes(tiny_model, tmp_path, two_processes):
    folder = two_processes / "straddle"
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert [rank["world_size"] for rank in ranks] == [2, 2]
    one = json.loads(json.dumps(straddle.report(straddle.train(tiny_model, tmp_path / "one", rows_per_process=12))))
    assert one["world_size"] == 1
    assert len(one["history"]) == 6 and any(entry["hapo/history_coverage"] > 0 for entry in one["logged"])
    assert ranks[0]["history"] == ranks[1]["history"] == one["history"]
    for two, single in zip(ranks[0]["logged"], one["logged"], strict=True):
        assert two.keys() == single.keys()
        assert all(abs(two[key] - single[key]) < 1e-5 for key in two if single[key] is not None), (two, single)
    saved = [folder / "checkpoint-4" / "concise_state" for folder in (tmp_path / "one", folder)]
    first, second = ((folder / "hapo.safetensors").read_bytes() for folder in saved)
    assert first == second


def test_length_methods_see_whole_groups_and_share_a_monitor(tiny_model, tmp_path, two_processes):
    folder = two_processes / "lengths"
    first, second = (json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert (first["world_size"], second["world_size"]) == (2, 2)
    one = lengths.train(tiny_model, tmp_path / "one", rows_per_process=12)
    together = [mine + theirs for mine, theirs in zip(first["advantages"], second["advantages"], strict=True)]
    assert len(together) == 2
    for two, single in zip(together, one["advantages"], strict=True):
        assert len(two) == 12 and any(single)
        assert two == pytest.approx(single, abs=1e-5)
    assert first["laser_d"] == second["laser_d"]
    # Before each of two steps, three completions of each of six prompts, nearly all of the eight tokens allowed: more
    # than one process alone could have generated.
    assert 2 * 3 * 3 * 8 < first["laser_d"]["monitor_tokens"] <= 2 * 3 * 6 * 8


def test_prompts_and_budgets_are_chosen_alike_and_again_after_a_resume(tiny_model, tmp_path, two_processes):
    folder = two_processes / "selecting"
    first, second = (json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and first["whole"]["world_size"] == 2
    one = selecting.train(tiny_model, tmp_path / "one", rows_per_process=8)
    whole, resumed = first["whole"], first["resumed"]
    # Each process samples completions of its own; how long they may be is the same for all.
    assert all(run["longest"] == 4 * [8, 6, 4, 6] for run in (one, whole)) and resumed["longest"] == 2 * [8, 6, 4, 6]
    assert whole == {**one, "world_size": 2}
    assert len(one["visited"]) == 16
    assert any(abs(streak) > 1 for streak in one["streaks"].values())
    # The checkpoint lies in the second epoch of six steps.
    assert resumed == {**whole, "visited": whole["visited"][8:], "longest": whole["longest"][8:]}


def test_resuming_inside_a_generation_block_and_on_other_numbers_of_processes(tiny_model, two_processes):
    """Three processes resume, then train until one of them fails, which ends the run."""
    folder = two_processes / "resuming"
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    for rank in ranks:
        assert rank["whole"]["world_size"] == 2
        assert rank["resumed"] == rank["whole"]  # losses, rewards and lengths, digit for digit
    assert ranks[0]["whole"]["history"] == ranks[1]["whole"]["history"]
    assert ranks[0]["whole"]["greso"] == ranks[1]["whole"]["greso"] and any(
        ranks[0]["whole"]["greso"]["streaks"].values()
    )
    assert (folder / "checkpoint-3" / "concise_state" / "rollouts-1.safetensors").exists()
    resuming.main("load", tiny_model, folder)
    done = run_on_processes(3, "tests.distributed.resuming", "load", tiny_model, str(folder))
    assert done.returncode != 0 and "the judge is out of order" in done.stderr, done.stderr[-5000:]
    for count in (1, 3):
        for rank in range(count):
            loaded = json.loads((folder / f"load-{count}-{rank}.json").read_text())
            assert loaded["world_size"] == count
            assert loaded["history"] == ranks[0]["whole"]["history"]
            assert loaded["greso"] == ranks[0]["whole"]["greso"]


def test_critiques_weigh_the_same_on_two_processes(tiny_model, tmp_path, two_processes):
    folder = two_processes / "critiques"
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert [rank["world_size"] for rank in ranks] == [2, 2]
    one = critiques.report(critiques.train(tiny_model, tmp_path / "one", rows_per_process=8))
    assert one["dropped"] == ranks[0]["dropped"] == ranks[1]["dropped"] == {"train": 1}
    for rank in ranks:
        assert rank["losses"] == pytest.approx(one["losses"], rel=1e-4)
        assert rank["weights"] == pytest.approx(one["weights"], rel=1e-4, abs=1e-4)


def test_token_credit_does_not_depend_on_the_number_of_processes(tiny_model, tmp_path, two_processes):
    """Groups that straddle processes, and a process that keeps nothing: the others must not wait for it forever."""
    folder = two_processes / "token_credit"
    two = json.loads((folder / "steps.json").read_text())
    for credit in token_credit.CREDITS:
        one = token_credit.train(tiny_model, tmp_path / credit, credit, rows_per_process=12)
        assert (one[0]["processes"], two[credit][0]["processes"]) == (1, 2)
        assert max(step["grad_norm"] for step in one) > 1e-3
        for single, double in zip(one, two[credit], strict=True):
            assert abs(single["loss"] - double["loss"]) < 1e-5, (credit, one, two)
            assert abs(single["grad_norm"] - double["grad_norm"]) < 1e-4, (credit, one, two)


def test_added_rows_do_not_depend_on_the_number_of_processes(tiny_model, tmp_path, two_processes):
    """Six completions a process in groups of four, and another number of added rows on each."""
    ranks = [json.loads((two_processes / "rows" / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    one = {
        "plain": rows.lengths(tiny_model, tmp_path / "plain", rows_per_process=12),
        "reference": rows.lengths(tiny_model, tmp_path / "reference", 12, beta=0.1, num_iterations=2),
    }
    for name, single in one.items():
        assert single["world_size"] == 1 and len(single["logged"]) == 3
        for rank in ranks:
            assert rank[name]["world_size"] == 2
            for two, alone in zip(rank[name]["logged"], single["logged"], strict=True):
                assert two == pytest.approx(alone, rel=1e-4, abs=1e-6)
    assert ranks[0]["replay"] == ranks[1]["replay"] and any(log["loss"] for log in ranks[0]["replay"]["logged"])


def test_processes_that_share_an_engine_may_generate_for_another_number_of_rows(two_processes):
    for process in (0, 1):
        found = json.loads((two_processes / "rows" / f"rank{process}.json").read_text())
        prompts, completions, logps = found["uneven"]
        assert completions == [[*prompt, 2] for prompt in prompts] and len(prompts) == 2 * (process + 1)
        assert [len(row) for row in logps] == [len(row) for row in completions]
