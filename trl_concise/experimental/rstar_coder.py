# SPDX-License-Identifier: Apache-2.0
"""
rStar-Coder: code problems with trustworthy tests (2025, https://huggingface.co/papers/2505.21297).

Inputs of a test come from a generator and a validator, and outputs from agreement: the largest set of candidate solutions that agree on all inputs.
[`CodeReward`] then judges programs by such tests. No code of the pipeline is public; the limits of a run are compared with the server that the authors' rStar2-Agent uses
(0xWJ/code-judge). docs/experimental/rstar_coder.md lists what is reconstructed.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ..verification.reward import completion_text
from .execution import Limits, run_python
from .execution.outputs import normalize_output, same_output
from .execution.process import TIMEOUT, UNAVAILABLE, check_platform, default_workers, warn_once


THRESHOLD, HARD_THRESHOLD = 0.6, 0.4
HARD_RATING = 1600  # Codeforces rating above which a problem is hard
CANDIDATES = 16  # the paper's
_PROGRAM = re.compile(r"^```(?:python3?|py)?[ \t]*\n(.*?)(?<=\n)```", re.DOTALL | re.MULTILINE)


def needed(candidates: int, threshold: float = THRESHOLD) -> int:
    r"""
    Return $\lceil \theta n \rceil$, the candidates that have to agree, without rounding errors.

    Args:
        candidates (`int`): $n$, failures included.
        threshold (`float`, *optional*, defaults to `0.6`): $\theta$, in (0, 1].

    Raises:
        `ValueError`: If the threshold is out of range, or there are fewer than 2 candidates.

    Examples:
        >>> [needed(n) for n in (5, 8, 10, 15, 16)], [needed(n, 0.4) for n in (5, 8, 10, 15, 16)]
        ([3, 5, 6, 9, 10], [2, 4, 4, 6, 7])
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}: it is a share of the candidates.")
    if candidates < 2:
        raise ValueError(f"Agreement needs at least 2 candidates, got {candidates}. Sample more solutions.")
    return math.ceil(Fraction(str(threshold)) * candidates)


def pass_probability(candidates: int, right: float, threshold: float = THRESHOLD) -> float:
    """
    Return the probability that enough candidates are right, if each is right with the same probability, independently of the others.

    Args:
        candidates (`int`): Number of candidates.
        right (`float`): Probability that one is right.
        threshold (`float`, *optional*, defaults to `0.6`): See [`needed`].

    Examples:
        >>> round(pass_probability(16, 0.5), 6), round(pass_probability(16, 0.5, 0.4), 6)
        (0.227249, 0.772751)
    """
    least = needed(candidates, threshold)
    return sum(
        math.comb(candidates, k) * right**k * (1 - right) ** (candidates - k) for k in range(least, candidates + 1)
    )


@dataclass(frozen=True)
class Agreement:
    """
    What candidates agree on.

    Attributes:
        accepted (`bool`): Whether enough of them agree on all inputs.
        reason (`str`): `"accepted"`, or why not: `"no agreement"`, `"tie"`, `"empty outputs"`, `"all failed"`, or `"unavailable"`.
        labels (`list[str]`): Normalized output for each input; empty unless accepted.
        members (`list[int]`): The candidates of the largest set, in order.
        kept (`int`, *optional*): The fastest of them, by processor time; `None` unless accepted.
        share (`float`): Size of the largest set, among all candidates.
        failed (`list[int]`): Candidates that failed on an input, or printed something else in the second run.
        constant (`bool`): Whether all labels are equal: such tests prove little.
    """

    accepted: bool
    reason: str
    labels: list[str]
    members: list[int]
    kept: int | None
    share: float
    failed: list[int]
    constant: bool = False


def agree(
    outputs: Sequence[Sequence[str | None]], threshold: float = THRESHOLD, seconds: Sequence[float] | None = None
) -> Agreement:
    """
    Apply the agreement rule to outputs. The whole set of outputs of a candidate must be that of others.

    Args:
        outputs (`Sequence[Sequence[str | None]]`): One row per candidate, one output per input; `None` for a failure.
        threshold (`float`, *optional*, defaults to `0.6`): See [`needed`].
        seconds (`Sequence[float]`, *optional*): Time of each candidate, by which one is kept. Default: the first is kept.

    Raises:
        `ValueError`: If the rows differ in length or have none, or as by [`needed`].

    Examples:
        >>> agree([["3", "8"], ["3\\n", "8"], ["3", "9"], [None, "8"], ["3", "8 "]]).labels
        ['3', '8']
    """
    least = needed(len(outputs), threshold)
    if len({len(row) for row in outputs}) != 1 or not outputs[0]:
        raise ValueError(
            f"Each candidate needs one output per input, at least one; got {sorted({len(row) for row in outputs})} outputs. Pass None for a failure."
        )
    by_signature: dict[tuple[str, ...], list[int]] = defaultdict(list)
    failed = []
    for i, row in enumerate(outputs):
        own = tuple(normalize_output(output) for output in row if output is not None)
        if len(own) == len(row):
            by_signature[own].append(i)
        else:
            failed.append(i)
    if not by_signature:
        return Agreement(False, "all failed", [], [], None, 0.0, failed)
    sets = sorted(by_signature.items(), key=lambda item: -len(item[1]))
    signature, members = sets[0]
    share = len(members) / len(outputs)
    if len(sets) > 1 and len(sets[1][1]) == len(members):
        return Agreement(False, "tie", [], [], None, share, failed)
    if len(members) < least:
        return Agreement(False, "no agreement", [], members, None, share, failed)
    if not any(signature):
        return Agreement(False, "empty outputs", [], members, None, share, failed)
    kept = min(members, key=lambda i: seconds[i] if seconds is not None else i)
    is_constant = len(set(signature)) == 1 and len(signature) > 1
    return Agreement(True, "accepted", list(signature), members, kept, share, failed, is_constant)


def label_outputs(
    candidates: Sequence[str],
    inputs: Sequence[str],
    threshold: float = THRESHOLD,
    *,
    limits: Limits | None = None,
    workers: int | None = None,
) -> Agreement:
    """
    Run candidate programs on inputs, each twice, and apply the agreement rule.

    A candidate fails if a run fails, or the second run prints something else; it is not run again. Code runs in limited processes that are **not a security boundary**.

    Args:
        candidates (`Sequence[str]`): At least two Python programs that read standard input.
        inputs (`Sequence[str]`): At least one.
        threshold (`float`, *optional*, defaults to `0.6`): See [`needed`].
        limits ([`Limits`], *optional*): Of each run.
        workers (`int`, *optional*): Candidates that run at a time. Default: the number of cores.

    Returns:
        [`Agreement`]: With the reason `"unavailable"` if a process could not be started.

    Raises:
        `ValueError`: As by [`needed`], or without an input.
    """
    needed(len(candidates), threshold)
    if not inputs:
        raise ValueError("label_outputs needs at least one input, got none. Generate some with generate_inputs.")
    warn_once()
    found = run_candidates(candidates, inputs, limits=limits, workers=workers)
    if any(one.unavailable for one in found):
        return Agreement(False, "unavailable", [], [], None, 0.0, [])
    return agree([one.outputs for one in found], threshold, [one.seconds for one in found])


@dataclass(frozen=True)
class CandidateOutputs:
    """
    What a candidate prints.

    Attributes:
        outputs (`list[str | None]`): Normalized output for each input; `None` for a failure and all inputs after it.
        seconds (`float`): Processor time of all runs.
        unavailable (`bool`): Whether a process could not be started.
    """

    outputs: list[str | None]
    seconds: float
    unavailable: bool = False


def run_candidates(
    candidates: Sequence[str], inputs: Sequence[str], *, limits: Limits | None = None, workers: int | None = None
) -> list[CandidateOutputs]:
    """
    Run each candidate twice on each input, until it fails or two runs differ.

    Args:
        candidates, inputs, limits: As for [`label_outputs`].
        workers (`int`, *optional*): Candidates that run at a time. Default: the number of cores.
    """

    def run(candidate: str) -> CandidateOutputs:
        outputs: list[str | None] = [None] * len(inputs)
        seconds = 0.0
        for i, given in enumerate(inputs):
            printed = []
            for _ in range(2):
                done = run_python(candidate, given, limits)
                seconds += done.seconds
                if done.status != "ok":
                    return CandidateOutputs(outputs, seconds, done.status == UNAVAILABLE)
                printed.append(normalize_output(done.stdout))
            if printed[0] != printed[1]:
                return CandidateOutputs(outputs, seconds)
            outputs[i] = printed[0]
        return CandidateOutputs(outputs, seconds)

    with ThreadPoolExecutor(workers or default_workers()) as pool:
        return list(pool.map(run, candidates))


# Reward


def last_program(completion: Any) -> str | None:
    r"""
    Return the last fenced block after `</think>`: without a language, or of Python.

    Args:
        completion (`str` or `list[dict]`): As TRL hands it to reward functions.

    Examples:
        >>> last_program("```python\nprint(1)\n```\nBetter:\n```\nprint(2)\n```")
        'print(2)\n'
    """
    blocks = _PROGRAM.findall(completion_text(completion).rpartition("</think>")[2])
    return blocks[-1] if blocks else None


def check_tests(tests: Any) -> list[dict[str, str]]:
    """
    Return the tests of a problem.

    Raises:
        `ValueError`: If it is not a list of at least one `{"input": str, "output": str}`.
    """
    if not isinstance(tests, Sequence) or isinstance(tests, str) or not tests:
        raise ValueError(
            f'The tests of a problem are {tests!r}. Give a list of at least one {{"input": "...", "output": "..."}}; drop problems without tests.'
        )
    for test in tests:
        if not isinstance(test, Mapping) or not all(isinstance(test.get(key), str) for key in ("input", "output")):
            raise ValueError(f'A test is {test!r}. It needs the texts "input" and "output".')
    return [dict(test) for test in tests]


class CodeReward:
    """
    Reward function that runs the program of a completion on tests: 1 if it passes all of them, else 0.

    The program is the last fenced block after `</think>`; without one the reward is 0. A wrong output, a non-zero exit, a timeout, too much memory
    or output fail a test. Where no process can be started, the reward is `None`, which leaves the completion out. The dataset has a column `tests`, with a list of
    `{"input": str, "output": str}` per problem; the program receives the input only.

    **The limits of a run are not a security boundary.** Code of a model that you do not trust belongs in a container.

    It logs `code/passed`, `code/timeouts`, `code/no_program` and `code/unavailable` (shares of the completions), and `code/seconds` (processor time
    per completion).

    Args:
        timeout (`float`, *optional*, defaults to `4.0`): Seconds per test, above 0.
        memory_mb (`int`, *optional*, defaults to `512`): Address space in MiB, above 0.
        workers (`int`, *optional*): Completions that are judged at a time. Default: the number of cores.
        partial (`bool`, *optional*, defaults to `False`): Whether the reward is the share of the tests that pass. All tests then run; otherwise
            the first failure ends them.
        float_tolerance (`float`, *optional*): See [`same_output`].

    Raises:
        `ValueError`: If a number is out of range, the platform has no such processes, or, when called, the column `tests` is missing or a test
            is invalid.
    """

    needs_one_of = ("tests",)  # looked for when a trainer is built

    def __init__(
        self,
        timeout: float = 4.0,
        memory_mb: int = 512,
        workers: int | None = None,
        partial: bool = False,
        float_tolerance: float | None = None,
    ):
        check_platform(type(self).__name__)
        for name, value in {"timeout": timeout, "memory_mb": memory_mb, "workers": workers}.items():
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {value}. Raise it.")
        if float_tolerance is not None and not 0 <= float_tolerance < math.inf:
            raise ValueError(f"float_tolerance must be at least 0 and finite, got {float_tolerance}.")
        self.__name__ = "code_reward"  # of its column in TRL's metrics
        self.limits = Limits(wall=timeout, memory_mb=memory_mb)
        self.workers = workers or default_workers()
        self.partial = partial
        self.float_tolerance = float_tolerance

    def __call__(
        self,
        completions: Sequence[Any],
        tests: Sequence[Any] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **kwargs: Any,
    ) -> list[float | None]:
        """
        Judge completions.

        Args:
            completions (`Sequence`): As TRL hands them to reward functions.
            tests (`Sequence[list[dict]]`): Tests of each completion's problem.
            log_metric (`Callable`, *optional*): Logs a number; the trainer provides it.
            **kwargs: The dataset's other columns, which are not used.
        """
        if tests is None:
            raise ValueError(
                'CodeReward needs a dataset with the column "tests", a list of {"input": ..., "output": ...} per problem. Add it.'
            )
        checked = [check_tests(own) for own in tests]
        programs = [last_program(completion) for completion in completions]
        warn_once()
        with ThreadPoolExecutor(self.workers) as pool:
            judged = list(pool.map(self._judge, programs, checked))
        if log_metric is not None and judged:
            rewards = [reward for reward, _, _ in judged if reward is not None]
            shares = {
                "passed": sum(reward == 1 for reward in rewards) / len(judged),
                "timeouts": sum(TIMEOUT in statuses for _, statuses, _ in judged) / len(judged),
                "no_program": programs.count(None) / len(judged),
                "unavailable": sum(UNAVAILABLE in statuses for _, statuses, _ in judged) / len(judged),
                "seconds": sum(seconds for _, _, seconds in judged) / len(judged),
            }
            for name, value in shares.items():
                log_metric(f"code/{name}", value)
        return [reward for reward, _, _ in judged]

    def _judge(self, program: str | None, tests: list[dict[str, str]]) -> tuple[float | None, Counter[str], float]:
        """Return reward, statuses of the runs, and processor time."""
        statuses: Counter[str] = Counter()
        if program is None:
            return 0.0, statuses, 0.0
        passed, seconds = 0, 0.0
        for test in tests:
            run = run_python(program, test["input"], self.limits)
            statuses[run.status] += 1
            seconds += run.seconds
            if run.status == UNAVAILABLE:
                return None, statuses, seconds
            has_passed = run.status == "ok" and same_output(run.stdout, test["output"], self.float_tolerance)
            passed += has_passed
            if not has_passed and not self.partial:
                return 0.0, statuses, seconds
        return passed / len(tests), statuses, seconds
