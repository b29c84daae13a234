# SPDX-License-Identifier: Apache-2.0
"""Models that write critiques: at any OpenAI-compatible endpoint, or on this machine."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import TimeoutError as PoolTimeout
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, Any, Protocol


if TYPE_CHECKING:
    from openai import OpenAI
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Conversation = list[dict[str, str]]

_REASONING_FIELDS = ("reasoning_content", "reasoning")  # of DeepSeek's and of vLLM's servers
_CUT = ("length", "content_filter", "abort")  # finish reasons; servers have names of their own for a good end
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0  # seconds before a request is repeated, doubling: as the openai client does


@dataclass(frozen=True)
class Reply:
    """
    A teacher's answer to one request.

    Args:
        text (`str`): The answer.
        input_tokens, output_tokens (`int`): Tokens read and written, as the teacher counts them.
        complete (`bool`): Whether the answer ended before the limit; otherwise it was truncated.
        retries (`int`): How often the request was repeated before it was answered.
        error (`str`, *optional*): Why the request failed.
        reasoning (`str`): The reasoning before the answer, where the endpoint returns it as a field of its own.
    """

    text: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    complete: bool = True
    retries: int = 0
    error: str | None = None
    reasoning: str = ""


class Teacher(Protocol):
    """
    Interface of a teacher for [`build_critiques`], and of a critic for [`~trl_concise.methods.capo.CAPO`].

    Attributes:
        name (`str`): Name of the model, kept with each critique.
    """

    name: str

    def config(self) -> dict[str, Any]:
        """Return the settings on which an answer depends. A request is repeated if they change."""

    def replies(
        self, conversations: Sequence[Conversation], timeout: float | None = None
    ) -> Iterator[tuple[int, Reply]]:
        """
        Yield the index of a conversation and the reply to it, in any order. After `timeout` seconds, if it is given, the iterator ends and
        leaves out what is missing; [`build_critiques`] gives none.
        """

    def cost(self, input_tokens: int, output_tokens: int) -> float | None:
        """Return the price of these numbers of tokens; `None` if it is unknown."""


class APITeacher:
    """
    A model at an OpenAI-compatible endpoint: OpenAI itself, or a server such as vLLM's.

    Rate limits, server errors and lost connections are retried by the `openai` client, with exponential backoff and the
    pauses that the server asks for; answers that cannot be read are retried in the same way. A refused key or an unknown
    model stops at once.

    Args:
        model (`str`): Name of the model at the endpoint.
        base_url (`str`, *optional*): Address of the endpoint, such as `"http://localhost:8000/v1"`. Defaults to OpenAI's.
        api_key (`str`, *optional*): Key; read from the environment variable `OPENAI_API_KEY` if `None`. A server that asks
            for no key takes any.
        temperature (`float`, *optional*, defaults to `0.3`): Sampling temperature; `None` leaves it to the endpoint.
        top_p (`float`, *optional*, defaults to `0.95`): Nucleus; `None` leaves it to the endpoint.
        max_tokens (`int`, *optional*, defaults to `3200`): Tokens per critique; `None` leaves it to the endpoint. These
            three defaults are those of 2501.17703.
        concurrency (`int`, *optional*, defaults to `8`): Requests under way at a time.
        max_retries (`int`, *optional*, defaults to `6`): How often a request is repeated.
        timeout (`float`, *optional*, defaults to `600.0`): Seconds that one request may take.
        prices (`tuple[float, float]`, *optional*): Price of a million input and of a million output tokens, for the report.
        options (`dict[str, Any]`, *optional*):
            Further parameters of `chat.completions.create`, e.g. `{"reasoning_effort": "low"}`.

    Raises:
        `ImportError`: If the `openai` package is missing.
        `ValueError`: If the API key is missing, or a number is out of range; when replies are read, if the endpoint refuses the
            key or does not know the model.

    Example:

    ```python
    >>> teacher = APITeacher("gpt-4.1-mini", prices=(0.4, 1.6))
    >>> teacher = APITeacher(
    ...     "Qwen/Qwen3-32B", base_url="http://localhost:8000/v1", api_key="none"
    ... )
    ```
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        temperature: float | None = 0.3,
        top_p: float | None = 0.95,
        max_tokens: int | None = 3200,
        concurrency: int = 8,
        max_retries: int = 6,
        timeout: float = 600.0,
        prices: tuple[float, float] | None = None,
        options: dict[str, Any] | None = None,
    ):
        try:
            from openai import OpenAI, OpenAIError
        except ImportError as error:
            raise ImportError("APITeacher needs the package openai: pip install 'trl-concise[critiques]'.") from error
        if concurrency < 1 or max_retries < 0:
            raise ValueError(
                f"concurrency must be at least 1 and max_retries at least 0, got {concurrency} and {max_retries}."
            )
        self.name = model
        self.concurrency = concurrency
        self.max_retries = max_retries
        self.timeout = timeout
        self.prices = prices
        sampling = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
        self.options = {name: value for name, value in sampling.items() if value is not None} | (options or {})
        try:
            self._client = OpenAI(base_url=base_url, api_key=api_key, max_retries=max_retries, timeout=timeout)
        except OpenAIError as error:
            raise ValueError(
                f"No API key is set for the teacher {model!r}. Set the environment variable OPENAI_API_KEY; a local server "
                "takes any value."
            ) from error

    def config(self) -> dict[str, Any]:
        return self.options

    def cost(self, input_tokens: int, output_tokens: int) -> float | None:
        if self.prices is None:
            return None
        return (input_tokens * self.prices[0] + output_tokens * self.prices[1]) / 1e6

    def replies(
        self, conversations: Sequence[Conversation], timeout: float | None = None
    ) -> Iterator[tuple[int, Reply]]:
        from openai import DefaultHttpxClient

        deadline = time.monotonic() + timeout if timeout is not None else None

        # A caller that stops reading needs no further requests and does not wait for running ones: leaving a ThreadPool waits
        # for none of its threads, which are daemons, and the closed client sends none of their retries.
        with DefaultHttpxClient() as http, ThreadPool(self.concurrency) as pool:
            limit = min(self.timeout, timeout) if timeout is not None else self.timeout
            client = self._client.with_options(http_client=http, timeout=limit)
            is_refused = threading.Event()

            def ask(item: tuple[int, Conversation]) -> tuple[int, Reply]:
                if is_refused.is_set():  # not read: the error comes before it
                    return item[0], Reply(error="not sent")
                try:
                    return item[0], self._ask(client, item[1])
                except ValueError:
                    is_refused.set()
                    raise

            answers = pool.imap_unordered(ask, enumerate(conversations))
            while True:
                try:
                    yield answers.next(max(0.0, deadline - time.monotonic()) if deadline is not None else None)
                except (StopIteration, PoolTimeout):
                    return

    def _ask(self, client: OpenAI, conversation: Conversation) -> Reply:
        import openai

        retries = 0
        while True:
            once = client.with_options(max_retries=self.max_retries - retries)  # one budget for all reasons
            try:
                response = once.chat.completions.with_raw_response.create(
                    model=self.name,
                    messages=conversation,  # type: ignore[arg-type]  # plain dictionaries, as openai documents
                    **self.options,
                )
                retries += response.retries_taken
                reply = _read_completion(response.parse())
            except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
                raise ValueError(  # the same for every request
                    f"The teacher {self.name!r} at {client.base_url} refuses every request: {error}. Check the model's name, "
                    "the address of the endpoint and OPENAI_API_KEY."
                ) from error
            except openai.APIError as error:  # the client's retries are used up
                return Reply(error=f"{type(error).__name__}: {error}", retries=retries)
            except ValueError:  # not JSON
                reply = None
            if reply is not None:
                return replace(reply, retries=retries)
            if retries == self.max_retries:
                return Reply(error="the answer could not be read", retries=retries)
            retries += 1
            time.sleep(min(FIRST_PAUSE * 2 ** (retries - 1), LONGEST_PAUSE) * random.uniform(0.75, 1))


def _read_completion(completion) -> Reply | None:
    """Return the reply that a chat completion holds, `None` if it holds none: the client does not check what it is sent."""
    try:
        choice, usage = completion.choices[0], completion.usage
        text, finish_reason = choice.message.content, choice.finish_reason
    except (AttributeError, IndexError, TypeError):
        return None
    if finish_reason in _CUT and text is None:
        text = ""  # truncated before the answer began; another attempt would end in the same way, at the same price
    if not isinstance(text, str):
        return None
    tokens = (usage.prompt_tokens, usage.completion_tokens) if usage is not None else (0, 0)
    reasonings = (getattr(choice.message, name, None) for name in _REASONING_FIELDS)
    reasoning = next((found for found in reasonings if isinstance(found, str)), "")
    return Reply(text, tokens[0], tokens[1], complete=finish_reason not in _CUT, reasoning=reasoning)


class LocalTeacher:
    """
    A model on this machine, through transformers.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]): Model, or its name on the Hub or folder.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*): Its tokenizer, with a chat template. Defaults to
            the one that belongs to the model.
        temperature (`float`, *optional*, defaults to `0.3`): Sampling temperature; `0.0` decodes greedily.
        top_p (`float`, *optional*, defaults to `0.95`): Nucleus.
        max_new_tokens (`int`, *optional*, defaults to `3200`): Tokens per critique.
        batch_size (`int`, *optional*, defaults to `8`): Critiques written at a time.
        seed (`int`, *optional*, defaults to `0`): Seed of the sampling. The caller's random state is left as it was.
    """

    def __init__(
        self,
        model: str | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        temperature: float = 0.3,
        top_p: float = 0.95,
        max_new_tokens: int = 3200,
        batch_size: int = 8,
        seed: int = 0,
    ):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from ..evaluation.sampling import with_padding_token

        if isinstance(model, str):
            model = AutoModelForCausalLM.from_pretrained(model, dtype="auto", device_map="auto")
        self.name = model.config._name_or_path
        self.model = model
        self.tokenizer = with_padding_token(
            tokenizer if tokenizer is not None else AutoTokenizer.from_pretrained(self.name)
        )
        self.temperature = temperature
        self.top_p = top_p
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.seed = seed

    def config(self) -> dict[str, Any]:
        names = ("temperature", "top_p", "max_new_tokens", "seed")
        return {name: getattr(self, name) for name in names}

    def cost(self, input_tokens: int, output_tokens: int) -> None:
        return None

    def replies(
        self, conversations: Sequence[Conversation], timeout: float | None = None
    ) -> Iterator[tuple[int, Reply]]:
        deadline = time.monotonic() + timeout if timeout is not None else None
        for first in range(0, len(conversations), self.batch_size):
            batch = conversations[first : first + self.batch_size]
            left = deadline - time.monotonic() if deadline is not None else None
            if left is not None and left <= 0:
                return
            yield from enumerate(self._answer(batch, self.seed + first, left), start=first)

    def _answer(self, conversations: Sequence[Conversation], seed: int, max_time: float | None) -> list[Reply]:
        import torch

        from .critique_tokens import end_of_turn

        tokenizer = self.tokenizer
        inputs = tokenizer(
            tokenizer.apply_chat_template(conversations, add_generation_prompt=True, tokenize=False),
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_token_type_ids=False,
            return_tensors="pt",
        ).to(self.model.device)
        ends = sorted({end_of_turn(tokenizer), tokenizer.eos_token_id} - {None})
        sampling = {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p}
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)
            generated = self.model.generate(
                **inputs,
                max_new_tokens=self.max_new_tokens,
                max_time=max_time,
                eos_token_id=ends,
                pad_token_id=tokenizer.pad_token_id,
                **(sampling if self.temperature > 0 else {"do_sample": False}),
            )
        replies = []
        for mask, row in zip(inputs["attention_mask"], generated[:, inputs["input_ids"].shape[1] :], strict=True):
            ids = row.tolist()
            stop = next((index for index, token in enumerate(ids) if token in ends), None)
            written = ids[: stop + 1] if stop is not None else ids
            text = tokenizer.decode(written, skip_special_tokens=True)
            replies.append(Reply(text, int(mask.sum()), len(written), complete=stop is not None))
        return replies
