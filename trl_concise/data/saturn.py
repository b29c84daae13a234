# SPDX-License-Identifier: Apache-2.0
"""
Satisfiable Boolean formulas by difficulty (SATURN: Liu et al., 2025, https://huggingface.co/papers/2505.16368).

A formula has l clauses of n literals each, over k variables. It is written as in the authors' data: `!B!C!D & A!B!D & AB!D` is three
clauses over A, B, C and D. Every formula is built around an assignment that satisfies it.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from datasets import Dataset

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SPLITS = ("train", "validation", "test")
ATTEMPTS = 200  # draws per formula that is still missing, before the formulas of a level count as exhausted
# Ours: what the authors' prompt says, with the same JSON fields and the same example.
INSTRUCTION = """\
Solve a Boolean satisfiability problem, which is given as JSON with these fields:

- "n_sat": the number of literals in each clause.
- "k": the number of variables. They are the first k letters of the alphabet.
- "clause": the formula. Its clauses are separated by " & ", and all of them must be true. A clause is a sequence of literals, of which \
at least one must be true. "!" before a variable negates it.

Give an assignment that satisfies the formula, as a string of k digits: 1 for true and 0 for false, in the order of the letters. If there \
are several, give any one of them. Reason step by step, and put the string within \\boxed{}.

Example: {"n_sat": 3, "k": 4, "clause": "!B!C!D & A!B!D & AB!D"} has the answer \\boxed{1101}.

The problem:"""

_LITERAL = re.compile("(!?)([A-Z])")
_CLAUSE = re.compile("(?:!?[A-Z])+")

Level = tuple[int, int, int]


def saturn_difficulty(n: int, k: int, l: int) -> float:  # noqa: E741 (the paper's name)
    r"""
    Estimate how hard a formula is to solve, from its shape alone.

    $$ D(n, k, l) = \log_2 k + 2 \log_2 l - n + \frac{k}{n} $$

    Args:
        n (`int`): Literals per clause, at least 1.
        k (`int`): Variables, at least `n`.
        l (`int`): Clauses, at least 1.

    Returns:
        `float`: Larger for harder formulas; only differences have a meaning.

    Raises:
        `ValueError`: If a formula of this shape does not exist.

    Examples:
        >>> [round(saturn_difficulty(*level), 4) for level in [(3, 5, 5), (3, 5, 6), (6, 7, 40)]]
        [5.6325, 6.1585, 8.6179]
    """
    if not 1 <= n <= k or l < 1:
        raise ValueError(f"n must lie in [1, k] and l be at least 1, got n = {n}, k = {k} and l = {l}.")
    return math.log2(k) + 2 * math.log2(l) - n + k / n


def largest_length(n: int, k: int) -> int:
    """Return how many different clauses of `n` literals over `k` variables one assignment satisfies."""
    return math.comb(k, n) * (2**n - 1)


def next_level(n: int, k: int, l: int) -> Level:  # noqa: E741
    """
    Return the next harder level: one more clause or one more variable, whichever raises [`saturn_difficulty`] less.

    A RECONSTRUCTION: the authors publish the levels that they used, but not the rule.

    Args:
        n, k, l (`int`): The current level, see [`saturn_difficulty`].

    Raises:
        `ValueError`: If the level does not exist, or no level of 26 letters is harder.

    Examples:
        >>> next_level(3, 5, 5)
        (3, 5, 6)
        >>> next_level(3, 5, 3)
        (3, 6, 3)
    """
    check_level((n, k, l))
    harder = [(n, k, l + 1)] if l < largest_length(n, k) else []
    harder += [(n, k + 1, l)] if k < len(LETTERS) else []
    if not harder:
        raise ValueError(
            f"No level is harder than {(n, k, l)} with n = {n}: it has all {len(LETTERS)} letters and all clauses. Raise n."
        )
    return min(harder, key=lambda level: saturn_difficulty(*level))


def check_level(level: Sequence[int]) -> None:
    """
    Check that formulas of a level exist.

    Raises:
        `ValueError`: If they do not.
    """
    if len(level) != 3 or not all(type(number) is int for number in level):
        raise ValueError(f"A level is (n, k, l), three whole numbers, got {level!r}.")
    n, k, length = level
    if not 1 <= n <= k <= len(LETTERS):
        raise ValueError(
            f"The level {tuple(level)} has n = {n} literals per clause and k = {k} variables. Choose 1 <= n <= k <= {len(LETTERS)}."
        )
    if not 1 <= length <= largest_length(n, k):
        raise ValueError(
            f"The level {tuple(level)} has l = {length} clauses. With n = {n} and k = {k}, l must lie in [1, {largest_length(n, k)}]."
        )


def draw_formula(level: Level, rng: random.Random) -> tuple[str, str]:
    """
    Draw an assignment, and a formula that it satisfies.

    The assignment is uniform, and so is the set of clauses among those that it satisfies.

    Args:
        level (`tuple[int, int, int]`): n, k and l, see [`saturn_difficulty`].
        rng (`random.Random`): Source of the draws.

    Returns:
        `tuple[str, str]`: The formula, its clauses in the order of their characters, and the assignment, k digits.
    """
    n, k, length = level
    values = [rng.randrange(2) for _ in range(k)]
    clauses: set[str] = set()
    while len(clauses) < length:
        variables = sorted(rng.sample(range(k), n))
        pattern = rng.randrange(1, 2**n)  # a set bit: the literal is true
        is_true = [pattern >> place & 1 for place in range(n)]
        clauses.add(
            "".join(
                LETTERS[variable] if values[variable] == true else f"!{LETTERS[variable]}"
                for variable, true in zip(variables, is_true, strict=True)
            )
        )
    return " & ".join(sorted(clauses)), "".join(map(str, values))


def parse_formula(clause: str) -> list[list[tuple[str, bool]]]:
    """
    Parse a formula.

    Args:
        clause (`str`): As [`draw_formula`] writes it.

    Returns:
        `list[list[tuple[str, bool]]]`: The literals of each clause: a letter, and whether it is not negated.

    Raises:
        `ValueError`: If it is not a formula.

    Examples:
        >>> parse_formula("!AB & C")
        [[('A', False), ('B', True)], [('C', True)]]
    """
    parts = clause.split(" & ") if isinstance(clause, str) else []
    if not parts or not all(map(_CLAUSE.fullmatch, parts)):
        raise ValueError(f"{str(clause)[:100]!r} is not a formula. Write clauses such as A!BC, separated by ' & '.")
    return [[(letter, not sign) for sign, letter in _LITERAL.findall(part)] for part in parts]


def satisfies(bits: str, clause: str) -> bool:
    """
    Return whether an assignment satisfies a formula.

    Args:
        bits (`str`): The values of A, B, C and so on. A variable without a digit is false, and a character other than 0 and 1
            satisfies no literal, as in the authors' code.
        clause (`str`): The formula.

    Raises:
        `ValueError`: If `clause` is not a formula.

    Examples:
        >>> satisfies("1101", "!B!C!D & A!B!D & AB!D"), satisfies("0101", "!B!C!D & A!B!D & AB!D")
        (True, False)
    """
    values = dict(zip(LETTERS, bits, strict=False))
    return all(
        any(values.get(letter, "0") == ("1" if positive else "0") for letter, positive in literals)
        for literals in parse_formula(clause)
    )


def saturn_dataset(
    levels: Sequence[Level],
    count: int,
    *,
    split: str = "train",
    seed: int = 0,
    instruction: str = INSTRUCTION,
) -> Dataset:
    """
    Generate formulas of increasing difficulty, for `saturn_reward` and `SATURNCurriculum`.

    The digest of a formula assigns it to one split, so no formula is in two splits, with any seeds.

    Args:
        levels (`Sequence[tuple[int, int, int]]`): (n, k, l) of each level, from easy to hard by [`saturn_difficulty`].
        count (`int`): Formulas per level, all different.
        split (`str`, *optional*, defaults to `"train"`): `"train"` (80 % of all formulas), `"validation"` or `"test"` (10 % each).
        seed (`int`, *optional*, defaults to `0`): The same arguments give the same formulas, and a larger `count` adds to them.
        instruction (`str`, *optional*): Text before each problem. Default: what the authors' prompt says, in our words.

    Returns:
        `Dataset`: Columns `prompt` (one user message), `clause` (the formula), `n_sat`, `k`, `solution` (the assignment that it is built
        around; others may exist), `level` (0 for the first), `difficulty` and `prompt_id`.

    Raises:
        `ValueError`: If a level does not exist or is not harder than the one before it, if `split` is unknown, or if a level has too few
            formulas.

    Examples:
        >>> saturn_dataset([(3, 5, 5), (3, 5, 6)], 1)["clause"][:]
        ['!AB!C & !AB!D & ACE & B!DE & BD!E', '!B!D!E & !BCD & !BCE & !CD!E & A!C!D & C!DE']
    """
    from datasets import Dataset

    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}: choose one of {', '.join(map(repr, SPLITS))}.")
    if count < 1 or not levels:
        raise ValueError(
            f"A dataset needs at least one level and one formula per level, got {len(levels)} and {count}."
        )
    for level in levels:
        check_level(level)
    difficulties = [saturn_difficulty(*level) for level in levels]
    if any(later <= earlier for earlier, later in zip(difficulties, difficulties[1:], strict=False)):
        rounded = [round(difficulty, 2) for difficulty in difficulties]
        raise ValueError(f"levels must be in order of difficulty, which is {rounded} for {list(levels)}.")
    rows: list[dict[str, Any]] = []
    for number, (level, difficulty) in enumerate(zip(levels, difficulties, strict=True)):
        for clause, solution in _distinct_formulas(level, count, split, seed):
            rows.append(
                {**formula_row(level, clause, solution, instruction), "level": number, "difficulty": difficulty}
            )
    return Dataset.from_list(rows)


def formula_row(level: Level, clause: str, solution: str, instruction: str = "") -> dict[str, Any]:
    """
    Return the row of a dataset for a formula, without its level.

    Args:
        level (`tuple[int, int, int]`): n, k and l.
        clause, solution (`str`): The formula and the assignment that it is built around.
        instruction (`str`, *optional*, defaults to `""`): Text before the problem.
    """
    question = {"n_sat": level[0], "k": level[1], "clause": clause}
    content = "\n".join(filter(None, [instruction, json.dumps(question)]))
    return {
        "prompt": [{"role": "user", "content": content}],
        **question,
        "solution": solution,
        "prompt_id": formula_digest(clause),
    }


def _distinct_formulas(level: Level, count: int, split: str, seed: int) -> list[tuple[str, str]]:
    n, k, length = level
    rng = random.Random(f"saturn {(n, k, length)} {split} {seed}")
    found: dict[str, str] = {}
    attempts = 0
    while len(found) < count:
        attempts += 1
        if attempts > ATTEMPTS * (len(found) + 10):
            raise ValueError(
                f"The level {level} has hardly more than {len(found)} formulas in the split {split!r}, but {count} were asked for. Lower count, "
                "or choose a level with more clauses or variables."
            )
        clause, solution = draw_formula(level, rng)
        if split_of(clause) == split:
            found.setdefault(clause, solution)
    return list(found.items())


def formula_digest(clause: str) -> str:
    """Return the digest of a formula, 16 hexadecimal digits; the same on every machine."""
    return hashlib.sha256(clause.encode()).hexdigest()[:16]


def split_of(clause: str) -> str:
    """Return the split that a formula belongs to, by its digest."""
    return {0: "test", 1: "validation"}.get(int(formula_digest(clause), 16) % 10, "train")
