# SPDX-License-Identifier: Apache-2.0
"""Labels for R2R's router: where the small model would leave the large model's path, and whether that matters."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from ...evaluation.sampling import Sampler, SamplingSettings, TransformersSampler
from ...state.checkpoint import write_atomically
from .judges import Comparison, Judge
from .reading import evaluation_mode, read_completion
from .router import digest_model
from .sampling import check_pair


LABELS = "labels.parquet"
_METADATA = {b"format": b"trl_concise.r2r.labels", b"version": b"1"}


class TokenKind(IntEnum):
    """What the small model proposes at a position of the large model's path."""

    IDENTICAL = 0  # the same token
    NEUTRAL = 1  # another one, after which meaning, reasoning and conclusion are the same
    DIVERGENT = 2  # another one, after which they differ
    UNREADABLE = 3  # another one, and the judge's verdict cannot be read


@dataclass(frozen=True)
class LabeledResponse:
    """
    A response of the large model, with what the small model proposes at each position.

    Attributes:
        prompt_ids, completion_ids (`list[int]`): The path: token ids of the prompt and of the large model's greedy response.
        proposed_ids (`list[int]`): The small model's likeliest token at each position of the response.
        kinds (`list[int]`): A [`TokenKind`] for each.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    proposed_ids: list[int]
    kinds: list[int]

    @property
    def labels(self) -> list[int | None]:
        """1 for divergent tokens, 0 for identical and neutral ones, `None` for those that are left out of the training."""
        return [None if kind == TokenKind.UNREADABLE else int(kind == TokenKind.DIVERGENT) for kind in self.kinds]


def find_mismatches(proposed: Sequence[int], path: Sequence[int], end_token_ids: Collection[int] = ()) -> list[int]:
    """
    Return 1 where the small model proposes another token than the path has, else 0. The end of the path never counts.

    Args:
        proposed, path (`Sequence[int]`): Token ids, of the same length.
        end_token_ids (`Collection[int]`, *optional*): Tokens that end a path.

    Examples:
        >>> find_mismatches([11, 12, 13, 14, 15, 2], [11, 22, 13, 24, 15, 2], {2})
        [0, 1, 0, 1, 0, 0]
    """
    return [int(own != other and other not in end_token_ids) for own, other in zip(proposed, path, strict=True)]


def label_tokens(
    small: Sampler,
    large: Sampler,
    prompts: Sequence[list[int]],
    judge: Judge,
    *,
    max_new_tokens: int = 4096,
    continuation_tokens: int = 64,
    batch_size: int = 64,
) -> list[LabeledResponse]:
    """
    Label the tokens of the large model's greedy responses.

    At each mismatch, the large model continues from the small model's token up to the end of a sentence, and the judge compares that with the path.
    A small model that would end the turn there diverges without being judged.

    Args:
        small, large ([`~trl_concise.evaluation.sampling.TransformersSampler`]): The models.
        prompts (`Sequence[list[int]]`): Token ids of problems to train on.
        judge ([`Judge`]): Decides whether a mismatch is divergent.
        max_new_tokens (`int`, *optional*, defaults to `4096`): Tokens after which a response is truncated.
        continuation_tokens (`int`, *optional*, defaults to `64`): Tokens that a continuation has at most.
        batch_size (`int`, *optional*, defaults to `64`): Responses that are generated at a time.

    Returns:
        `list[LabeledResponse]`: One per prompt.

    Raises:
        `ValueError`: If `prompts` is empty, a number is less than 1, or the models do not fit together.
    """
    if not prompts or min(max_new_tokens, continuation_tokens, batch_size) < 1:
        raise ValueError(
            "Labels need at least one prompt, and max_new_tokens, continuation_tokens and batch_size of at least 1; got "
            f"{len(prompts)}, {max_new_tokens}, {continuation_tokens} and {batch_size}."
        )
    small, large = check_pair(small, large)
    responses: list[LabeledResponse] = []
    for first in range(0, len(prompts), batch_size):
        batch = prompts[first : first + batch_size]
        paths = large.sample(batch, SamplingSettings(max_new_tokens, temperature=0.0))
        with evaluation_mode(small.model):
            proposed = [
                [token for _, logits in read_completion(small.model, *row) for token in logits.argmax(-1).tolist()]
                for row in zip(batch, paths, strict=True)
            ]
        unlabeled = [LabeledResponse(*row, kinds=[]) for row in zip(batch, paths, proposed, strict=True)]
        ends = small.end_token_ids | large.end_token_ids
        responses += _label(unlabeled, large, judge, ends, continuation_tokens, batch_size)
    return responses


def _label(
    responses: Sequence[LabeledResponse],
    large: TransformersSampler,
    judge: Judge,
    ends: set[int],
    continuation_tokens: int,
    batch_size: int,
) -> list[LabeledResponse]:
    kinds = [[TokenKind.IDENTICAL] * len(response.completion_ids) for response in responses]
    judged: list[tuple[int, int]] = []  # row and position
    for row, response in enumerate(responses):
        mismatches = find_mismatches(response.proposed_ids, response.completion_ids, large.end_token_ids)
        for position, is_mismatch in enumerate(mismatches):
            if is_mismatch and response.proposed_ids[position] in ends:
                kinds[row][position] = TokenKind.DIVERGENT
            elif is_mismatch:
                judged.append((row, position))
    beginnings = [
        [*responses[row].prompt_ids, *responses[row].completion_ids[:position], responses[row].proposed_ids[position]]
        for row, position in judged
    ]
    others: list[list[int]] = []
    for first in range(0, len(beginnings), batch_size):
        settings = SamplingSettings(continuation_tokens, temperature=0.0)
        others += large.sample(beginnings[first : first + batch_size], settings)

    def text(ids: Sequence[int]) -> str:
        return str(large.tokenizer.decode(ids, skip_special_tokens=True))

    def continuation(ids: Sequence[int]) -> tuple[str, str]:
        token, rest = text(ids[:1]), text(ids[1 : continuation_tokens + 1])
        end = re.search(judge.sentence_end, token + rest)
        return token, rest[: max(end.end() - len(token), 0)] if end is not None else rest

    comparisons = [
        Comparison(
            prompt=text(responses[row].prompt_ids),
            context=text(responses[row].completion_ids[:position]),
            original=continuation(responses[row].completion_ids[position:]),
            alternative=continuation([responses[row].proposed_ids[position], *other]),
        )
        for (row, position), other in zip(judged, others, strict=True)
    ]
    verdict_kinds = {True: TokenKind.DIVERGENT, False: TokenKind.NEUTRAL, None: TokenKind.UNREADABLE}
    for (row, position), verdict in zip(judged, judge.verdicts(comparisons) if comparisons else [], strict=True):
        kinds[row][position] = verdict_kinds[verdict]
    return [
        LabeledResponse(
            response.prompt_ids, response.completion_ids, response.proposed_ids, [int(kind) for kind in own]
        )
        for response, own in zip(responses, kinds, strict=True)
    ]


def count_kinds(responses: Sequence[LabeledResponse]) -> dict[str, int]:
    """Return how many tokens are of each kind, by its name in lower case."""
    counts = Counter(kind for response in responses for kind in response.kinds)
    return {kind.name.lower(): counts[kind] for kind in TokenKind}


def write_labels(path: str | Path, responses: Sequence[LabeledResponse], small: Any) -> None:
    """
    Write labels to a parquet file, with the digest of the small model.

    Args:
        path (`str` or `Path`): The file.
        responses (`Sequence[LabeledResponse]`): The labels.
        small ([`~transformers.PreTrainedModel`]): The small model.
    """
    columns = {item.name: [getattr(response, item.name) for response in responses] for item in fields(LabeledResponse)}
    schema = pyarrow.schema({name: pyarrow.list_(pyarrow.int32()) for name in columns})
    metadata = {**_METADATA, b"small_model": digest_model(small).encode()}
    data = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns, schema=schema.with_metadata(metadata)), data)
    write_atomically(Path(path), data.getvalue())


def read_labels(path: str | Path, small: Any) -> list[LabeledResponse]:
    """
    Read labels.

    Args:
        path (`str` or `Path`): A file of `write_labels`.
        small ([`~transformers.PreTrainedModel`]): The small model.

    Raises:
        `FileNotFoundError`: If the file does not exist.
        `ValueError`: If the file has no labels, or those of another small model.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist. Label responses first.")
    try:
        table = pyarrow.parquet.read_table(path)
        metadata = table.schema.metadata or {}
        if any(metadata.get(key) != value for key, value in _METADATA.items()):
            raise ValueError("its metadata are of another format")
        responses = [LabeledResponse(**row) for row in table.to_pylist()]
    except (pyarrow.ArrowException, ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a file of labels: {error}. Label responses again.") from error
    if metadata.get(b"small_model") != digest_model(small).encode():
        raise ValueError(f"The labels in {path} are of another small model. Give that model, or label again.")
    return responses
