# SPDX-License-Identifier: Apache-2.0
"""
Reward functions of the text of a completion: open-rs's format, ThinkJSON and SRPO.

- open-rs (Dang and Ngo, 2025, https://huggingface.co/papers/2503.16219): the end of the reasoning is on a line of its own.
- ThinkJSON (Agarwal et al., 2025, https://huggingface.co/papers/2502.14905): a JSON object with the right values. A RECONSTRUCTION.
- SRPO (Wan et al., 2025, https://huggingface.co/papers/2506.01713): an answer, a reflection, and a second answer. The authors train multimodal
  models; these are the parts of their reward that read text.

They are plain reward functions, for [`~trl.GRPOTrainer`] too.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..verification.finished import opens_reasoning
from ..verification.reward import completion_text
from ..verification.verify import verify_answers


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONGEST = 200_000  # characters of a completion that are read, more than any has

_TAG = re.compile(r"</?(?:think|answer|reflection)>")
_JSON_TAGS = ["<think>", "</think>", "<answer>", "</answer>"]
_SRPO_TAGS = [*_JSON_TAGS, "<reflection>", "</reflection>", *_JSON_TAGS]
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)

# open-rs: bounds for TRL's `get_cosine_scaled_reward`, whose defaults penalize short incorrect completions more than long ones (src/open_r1/grpo.py)
OPEN_RS_COSINE = {"min_value_wrong": 0.0, "max_value_wrong": -0.5, "min_value_correct": 0.5, "max_value_correct": 1.0}

# SRPO: accuracy by whether the first and the second answer are correct, and of a completion with one answer
SRPO_ACCURACY = {(False, True): 1.0, (True, True): 0.75, (True, False): 0.25, (False, False): 0.0}
SRPO_SINGLE = 0.5
SRPO_FORMAT = 0.5
SRPO_LENGTH = 0.1


def think_end_reward(completions: list[Any], **kwargs: Any) -> list[float]:
    r"""
    Reward function of open-rs: 1 if the completion has exactly one `</think>` on a line of its own, 0 otherwise.

    The authors add [`~trl.rewards.get_cosine_scaled_reward`] with `OPEN_RS_COSINE` and twice the weight.

    Args:
        completions (`list`): Completions as text, or as lists of messages, of which the last is read.
        **kwargs: The dataset's columns, which are not used.

    Returns:
        `list[float]`: 1.0 or 0.0 per completion.

    Examples:
        >>> think_end_reward(["It is 2.\n</think>\n\\boxed{2}", "It is 2.</think>\\boxed{2}"])
        [1.0, 0.0]
    """
    return [float(completion_text(completion).count("\n</think>\n") == 1) for completion in completions]


def json_similarity(given: Any, expected: Mapping[str, Any]) -> float:
    r"""
    Compare a JSON value with the expected object: $\frac12 r_\text{kv} + \frac12 r_\text{len}$.

    $r_\text{kv}$ is the share of the expected keys that have the expected value, $r_\text{len}$ the shorter length divided by the longer one, of the
    compact JSON texts, in characters.

    Args:
        given: A value that JSON can express.
        expected (`Mapping[str, Any]`): The object.

    Returns:
        `float`: In `[0, 1]`; 1 if they are equal, 0 if `given` is not an object.

    Examples:
        >>> json_similarity({"a": 1, "b": 3}, {"a": 1, "b": 2})
        0.75
    """
    if not isinstance(given, Mapping):
        return 0.0
    matching = sum(key in given and _compact(given[key]) == _compact(value) for key, value in expected.items())
    share = matching / len(expected) if expected else float(not given)
    lengths = sorted((len(_compact(given)), len(_compact(expected))))
    return 0.5 * share + 0.5 * lengths[0] / lengths[1]


def think_json_reward(
    completions: list[Any], solution: list[Any], prompts: list[Any] | None = None, **kwargs: Any
) -> list[float | None]:
    """
    Reward function of ThinkJSON: similarity of a JSON object with the expected one, and 1 for the format. A reconstruction.

    The format is `<think>...</think><answer>...</answer>`, without anything around it but white space. The object is read from the last
    `<answer>`, or from what follows `</think>` if there is none, and may be in a Markdown fence.

    Args:
        completions (`list`): Completions as text, or as lists of messages, of which the last is read.
        solution (`list`): The expected objects: the dataset's column `solution`, as JSON text or as dictionaries. Text is safer: a dataset adds
            the keys of other rows to a dictionary, with `None`.
        prompts (`list`, *optional*): Where a prompt ends with `<think>`, the completion begins inside the reasoning; after messages also where its
            first tag is `</think>`.
        **kwargs: The dataset's other columns, which are not used.

    Returns:
        `list[float | None]`: [`json_similarity`], 0 for what is not JSON, plus 1 for the format: in `[0, 2]`. `None` where `solution` is not a JSON
        object.

    Examples:
        >>> text = '<think>I read it.</think><answer>{"a": 1, "b": 3}</answer>'
        >>> think_json_reward([text], solution=['{"a": 1, "b": 2}'])
        [1.75]
    """
    rewards: list[float | None] = []
    for text, expected in zip(_texts(completions, prompts), map(_read_json, solution), strict=True):
        if not isinstance(expected, Mapping):
            rewards.append(None)
            continue
        _, after_answer, answer = text.rpartition("<answer>")
        body = answer.partition("</answer>")[0] if after_answer else text.rpartition("</think>")[2]
        fenced = _FENCE.fullmatch(body.strip())
        try:
            similarity = json_similarity(_read_json(fenced[1] if fenced else body), expected)
        except RecursionError:  # nested more deeply than Python can write
            similarity = 0.0
        rewards.append(similarity + float(_follows(text, _JSON_TAGS)))
    return rewards


def srpo_length_reward(length: float, first: float) -> float:
    r"""
    Return SRPO's reward for the length of a completion: $0.1 \exp\left(-\left(\frac{|L - T|}{T_{\max} - T}\right)^2\right)$.

    $T$ is twice, and $T_{\max}$ 2.5 times, the length of the first reasoning and answer.

    Args:
        length (`float`): $L$, length of the whole completion, at least 0.
        first (`float`): Length of the first reasoning and answer, in the same unit.

    Returns:
        `float`: In `[0, 0.1]`; 0 if `first` is 0.

    Examples:
        >>> [round(srpo_length_reward(length, 300), 4) for length in (600, 750, 900)]
        [0.1, 0.0368, 0.0018]
    """
    if first <= 0:
        return 0.0
    return SRPO_LENGTH * math.exp(-((abs(length - 2 * first) / (0.5 * first)) ** 2))


def srpo_reward(
    completions: list[Any],
    solution: list[Any],
    prompts: list[Any] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """
    Reward function of SRPO: accuracy before and after a reflection, plus format, plus length.

    The format is a reasoning, an answer, a reflection, a second reasoning and a second answer, in the tags `think`, `answer` and `reflection`, and
    nothing else. It earns 0.5. Two answers earn 1 if only the second is correct, 0.75 if both are, 0.25 if only the first is; one answer earns 0.5 if it is
    correct. Length is rewarded ([`srpo_length_reward`]) where there are two reasonings and two answers.

    Args:
        completions (`list`): Completions as text, or as lists of messages, of which the last is read.
        solution (`list[str]`): Reference answers: the dataset's column `solution`. Answers are compared as by [`verify_answers`].
        prompts (`list`, *optional*): Where a prompt ends with `<think>`, the completion begins inside the reasoning; after messages also where its
            first tag is `</think>`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*): Counts lengths in tokens. By default they are characters: the reward
            depends on a ratio of lengths, which hardly differs.
        **kwargs: The dataset's other columns, which are not used.

    Returns:
        `list[float | None]`: In `[0, 1.6]`; `None` where the reference answer is missing or unreadable.
    """
    texts = _texts(completions, prompts)
    answers = [_between(text, "answer") for text in texts]
    asked = [  # the first and the last answer of each completion
        (
            str(gold) if gold is not None and gold == gold else "",
            f"<answer>{answer}</answer>",
        )  # a table has NaN for None
        for gold, own in zip(solution, answers, strict=True)
        for answer in (own[0] if own else "", own[-1] if own else "")
    ]
    verdicts = (
        verify_answers(*map(list, zip(*asked, strict=True)), format="answer_tag", final_form=True) if asked else []
    )
    rewards: list[float | None] = []
    for place, (text, own) in enumerate(zip(texts, answers, strict=True)):
        known = [verdict for verdict in verdicts[2 * place : 2 * place + 2] if verdict is not None]
        if len(known) < 2:
            rewards.append(None)
            continue
        first, last = known
        accuracy = SRPO_ACCURACY[first, last] if len(own) > 1 else SRPO_SINGLE * first
        reward = accuracy + SRPO_FORMAT * _follows(text, _SRPO_TAGS)
        thoughts = _between(text, "think")
        if len(own) > 1 and len(thoughts) > 1:
            whole, *opening = (_length(part, tokenizer) for part in (text, thoughts[0], own[0]))
            reward += srpo_length_reward(whole, sum(opening))
        rewards.append(reward)
    return rewards


def _texts(completions: Sequence[Any], prompts: Sequence[Any] | None) -> list[str]:
    """
    Return the texts of completions, with the `<think>` with which the prompt ends. A conversational prompt comes without what its chat template
    adds: a completion whose first tag is `</think>` began inside the reasoning.
    """
    texts = []
    for completion, prompt in zip(
        completions, prompts if prompts is not None else [""] * len(completions), strict=True
    ):
        text = completion_text(completion)[:LONGEST]
        first = _TAG.search(text)
        is_inside = opens_reasoning(prompt) or (
            not isinstance(prompt, str) and first is not None and first[0] == "</think>"
        )
        texts.append(f"<think>{text}" if is_inside and not text.lstrip().startswith("<think>") else text)
    return texts


def _follows(text: str, tags: Sequence[str]) -> bool:
    """Return whether a text has these tags in this order and no others, text inside each pair, and nothing outside."""
    pieces = _TAG.split(text)
    inside, outside = pieces[1::2], pieces[0::2]
    return _TAG.findall(text) == list(tags) and all(map(str.strip, inside)) and not any(map(str.strip, outside))


def _between(text: str, tag: str) -> list[str]:
    """Return what is inside each pair of a tag."""
    parts = text.split(f"<{tag}>")[1:]
    return [part.partition(f"</{tag}>")[0].strip() for part in parts if f"</{tag}>" in part]


def _length(text: str, tokenizer: PreTrainedTokenizerBase | None) -> int:
    return len(tokenizer(text).input_ids) if tokenizer is not None else len(text)


def _read_json(text: Any) -> Any:
    """Return a JSON value; `None` for text that is not JSON."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _compact(value: Any) -> str:
    """Return a value as compact JSON with sorted keys, in which `true` and 1 differ, and 1.0 equals 1."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
