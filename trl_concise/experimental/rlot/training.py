# SPDX-License-Identifier: Apache-2.0
"""Training of the navigator, and episodes under a fixed policy: a navigator, a random one, or always the same block."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ...evaluation.metrics import accuracy_interval
from ...state.checkpoint import write_atomically
from ...verification import verify_answers
from ..step_scores import StepScorer, score_steps
from .environment import Episode, ReasoningEnvironment
from .navigator import ACTIONS, STATE_FILE, DoubleDQN, Navigator, NavigatorConfig


if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

EPISODES_FILE, SUMMARY_FILE = "episodes.jsonl", "summary.json"
Policy = Callable[[Sequence[Episode]], list[int]]  # one block per episode


def judge_episodes(episodes: Sequence[Episode], solutions: Sequence[str]) -> list[bool | None]:
    """
    Return whether each final answer is correct, as [`~trl_concise.evaluation.evaluate`] judges it: one that is missing, truncated or still to be
    calculated is wrong; `None` if the reference answer cannot be read.
    """
    verdicts = verify_answers(list(solutions), [episode.context.text for episode in episodes], final_form=True)
    return [
        verdict and not episode.context.truncated if verdict is not None else None
        for episode, verdict in zip(episodes, verdicts, strict=True)
    ]


def train_navigator(
    environment: ReasoningEnvironment,
    problems: Dataset,
    scorer: StepScorer,
    output_dir: str | Path,
    config: NavigatorConfig | None = None,
    *,
    episodes: int = 3000,
    parallel: int = 16,
    save_every: int = 10,
    stop_after: int | None = None,
) -> Navigator:
    """
    Train a navigator. A second call with the same arguments continues an interrupted run, and gives the same navigator.

    Args:
        environment ([`ReasoningEnvironment`]):
            Episodes of the frozen model, whose `max_depth` and `store_forced` are those of `config`.
        problems (`Dataset`):
            Columns `prompt` and `solution`. Episodes draw from them with replacement.
        scorer ([`StepScorer`]):
            Its score of the last step is the reward of a block that does not end the episode. The last block's reward is 1 if the answer is right, else 0.
        output_dir (`str` or `Path`):
            Folder of `navigator.safetensors`, `navigator.json`, `episodes.jsonl` and the state of the training.
        config ([`NavigatorConfig`], *optional*):
            Settings of the learning rule.
        episodes (`int`, *optional*, defaults to `3000`):
            Number of episodes.
        parallel (`int`, *optional*, defaults to `16`):
            Episodes that advance together. Their blocks are chosen by the same network, which then has one update for each of them.
            `1` is the order of the authors.
        save_every (`int`, *optional*, defaults to `10`):
            Groups of parallel episodes between two saves of the state.
        stop_after (`int`, *optional*):
            Stop after this many episodes, to be continued.

    Returns:
        [`Navigator`]: The trained network.

    Raises:
        `ValueError`: If problems are missing, a number is less than 1, the environment has other settings, or the folder those of another run.
    """
    config = config or NavigatorConfig()
    if not len(problems):
        raise ValueError("The dataset has 0 problems, and at least one is needed to train on.")
    for name, number in (("episodes", episodes), ("parallel", parallel), ("save_every", save_every)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}.")
    if (environment.max_depth, environment.store_forced) != (config.max_depth, config.store_forced):
        raise ValueError(
            f"The environment has max_depth {environment.max_depth} and store_forced {environment.store_forced!r}, the config "
            f"{config.max_depth} and {config.store_forced!r}. Give both the same."
        )
    folder = Path(output_dir)
    state_file = folder / STATE_FILE
    identity = json.dumps([parallel, list(problems["prompt"]), list(problems["solution"])])
    run = hashlib.sha256(identity.encode()).hexdigest()
    learner = DoubleDQN.load(state_file, config, run) if state_file.is_file() else DoubleDQN(config)
    lines = _read_lines(folder / EPISODES_FILE)[: learner.episodes]
    if len(lines) < learner.episodes:
        raise ValueError(
            f"{folder / EPISODES_FILE} has {len(lines)} episodes, and the state of the training {learner.episodes}. Choose an empty folder."
        )
    end = min(episodes, stop_after or episodes)
    groups = 0
    while learner.episodes < end:
        first = learner.episodes
        count = min(parallel, episodes - first)
        draw = random.Random(f"{config.seed} {first}")
        rows = [problems[draw.randrange(len(problems))] for _ in range(count)]
        lines += _train_group(environment, rows, scorer, learner, f"{config.seed} {first}")
        groups += 1
        if groups % save_every == 0 or learner.episodes >= end:
            write_atomically(folder / EPISODES_FILE, "".join(lines).encode())
            learner.save(state_file, run)
            logger.info("%d of %d episodes, epsilon %.3f.", learner.episodes, episodes, learner.epsilon)
    learner.navigator.save(folder, episodes=learner.episodes, actions_taken=learner.actions, updates=learner.updates)
    return learner.navigator


def _train_group(
    environment: ReasoningEnvironment,
    rows: Sequence[dict[str, Any]],
    scorer: StepScorer,
    learner: DoubleDQN,
    seed: str,
) -> list[str]:
    episodes = environment.start([row["prompt"] for row in rows], seed)
    solution = {id(episode): row["solution"] for episode, row in zip(episodes, rows, strict=True)}
    rewards: dict[int, list[float]] = {id(episode): [] for episode in episodes}
    while active := [episode for episode in episodes if not episode.done]:
        environment.step(active, learner.choose([episode.states[-1] for episode in active]))
        ended = [episode for episode in active if episode.done]
        correct = iter(judge_episodes(ended, [solution[id(episode)] for episode in ended]))
        for episode in active:
            if episode.done:
                reward = float(next(correct) is True)
            else:
                reward = _score_last(scorer, episode)
            rewards[id(episode)].append(reward)
            before, after = (episode.states[-1], None) if episode.done else (episode.states[-2], episode.states[-1])
            learner.learn(before, episode.actions[-1], reward, after)
    learner.episodes += len(episodes)
    return [
        json.dumps(episode.record() | {"rewards": rewards[id(episode)]}, ensure_ascii=False) + "\n"
        for episode in episodes
    ]


def _score_last(scorer: StepScorer, episode: Episode) -> float:
    steps = episode.context.steps
    return score_steps(scorer, episode.context.problem, steps)[-1] if steps else 0.0


def _read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []


def make_policy(name: str, navigator: Navigator | None = None, seed: int = 0) -> Policy:
    """
    Return a policy by its name.

    Args:
        name (`str`): `navigator`, `random`, or `always:` and a block, such as `always:R`.
        navigator ([`Navigator`], *optional*): The network of `navigator`.
        seed (`int`, *optional*, defaults to `0`): Seed of `random`, whose draws depend on the problem and not on the other episodes.

    Returns:
        `Callable`: Returns a block for each of several episodes.

    Raises:
        `ValueError`: If the name is unknown, or a navigator is missing.
    """
    known = ["navigator", "random", *(f"always:{action}" for action in ACTIONS)]
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        suggestion = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"Unknown policy {name!r}: choose one of {', '.join(known)}.{suggestion}")
    if name == "navigator":
        if navigator is None:
            raise ValueError("The policy 'navigator' needs a navigator. Train or load one.")
        return lambda episodes: navigator.best_actions([episode.states[-1] for episode in episodes])
    if name == "random":
        return lambda episodes: [
            random.Random(f"{seed} {episode.context.problem} {len(episode.actions)}").randrange(len(ACTIONS))
            for episode in episodes
        ]
    action = ACTIONS.index(name.removeprefix("always:"))
    return lambda episodes: [action] * len(episodes)


def run_policy(
    environment: ReasoningEnvironment,
    problems: Dataset,
    policy: Policy,
    output_dir: str | Path | None = None,
    *,
    parallel: int = 64,
    seed: int = 0,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """
    Solve problems with a fixed policy, and measure accuracy and cost. The reference answers are used for the accuracy only.

    Args:
        environment ([`ReasoningEnvironment`]): Episodes of the frozen model.
        problems (`Dataset`): Columns `prompt` and `solution`, at least one row.
        policy (`Callable`): See [`make_policy`].
        output_dir (`str` or `Path`, *optional*): Folder of `episodes.jsonl` and `summary.json`.
        parallel (`int`, *optional*, defaults to `64`): Episodes that advance together.
        seed (`int`, *optional*, defaults to `0`): Seed of the draws.

    Returns:
        `tuple[dict, list[dict]]`: The summary and the episodes. The summary has `problems`, `judged` (those whose reference answer can be read), `accuracy` and
        `accuracy_interval` (95 %) of them, `generated_tokens`,
        `prompt_tokens` and `calls`, each a sum over the episodes, `unreadable`, and `sequences`, the frequency of each sequence of blocks.

    Raises:
        `ValueError`: If problems are missing, or `parallel` is less than 1.
    """
    if not len(problems) or parallel < 1:
        raise ValueError(
            f"At least one problem and parallel of at least 1 are needed; got {len(problems)} problems and parallel {parallel}."
        )
    records: list[dict[str, Any]] = []
    for first in range(0, len(problems), parallel):
        rows = [problems[place] for place in range(first, min(first + parallel, len(problems)))]
        episodes = environment.start([row["prompt"] for row in rows], f"{seed} {first}")
        while active := [episode for episode in episodes if not episode.done]:
            environment.step(active, policy(active))
        correct = judge_episodes(episodes, [row["solution"] for row in rows])
        records += [
            episode.record() | {"correct": verdict} for episode, verdict in zip(episodes, correct, strict=True)
        ]
    summary = summarize_episodes(records)
    if output_dir is not None:
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        write_atomically(Path(output_dir, EPISODES_FILE), lines.encode())
        write_atomically(Path(output_dir, SUMMARY_FILE), (json.dumps(summary, indent=2) + "\n").encode())
    return summary, records


def summarize_episodes(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the summary of episodes of [`run_policy`]."""
    correct = [float(record["correct"]) for record in records if record["correct"] is not None]
    sums = {
        name: sum(record[name] for record in records)
        for name in ("generated_tokens", "prompt_tokens", "calls", "unreadable")
    }
    sequences = Counter(" ".join(record["blocks"]) for record in records)
    return {
        "problems": len(records),
        "judged": len(correct),
        "accuracy": fmean(correct) if correct else None,
        "accuracy_interval": list(accuracy_interval([[value] for value in correct])) if correct else None,
        **sums,
        "sequences": dict(sequences.most_common()),
    }
