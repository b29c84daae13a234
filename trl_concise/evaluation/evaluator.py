# SPDX-License-Identifier: Apache-2.0
"""[`evaluate`] measures a model on problem sets and writes every completion to a file."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.perturbations import perturb_sets
from ..state.checkpoint import write_atomically
from ..verification.extraction import ANSWER_FORMATS, AnswerFormat
from ..verification.finished import MARKERS, ThinkingMarkers
from .axes import summarize_axes
from .base import differing_from_base, efficiency, read_base
from .chunks import ChunkedSampler, Chunking
from .completions import Completion, summarize, truncate_at
from .drawing import complete_set, find_unreadable
from .folder import SETTINGS_FILE, check_settings, read_folder, write_problems
from .identity import fingerprint, name_of
from .judges import describe_judge
from .loading import context_length, find_source
from .progress import progress_bar
from .quantization import NOT_QUANTIZED, Quantization
from .sampling import (
    Sampler,
    SamplingSettings,
    TransformersSampler,
    load_sampler,
    tokenize_prompts,
)
from .sets import ProblemSets, add_to_prompts, at_levels, load_sets
from .stress import add_stress
from .summaries import SUMMARY_FILE
from .thinking_budget import ThinkingBudgets, answer_within_all, summarize_budgeted
from .uncertainty import record_uncertainty, summarize_uncertainty
from .voting import Vote, count_votes


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def evaluate(
    model: str | PreTrainedModel | Sampler,
    datasets: str | Sequence[str] | Mapping[str, Dataset],
    output_dir: str | Path | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    num_completions: int = 1,
    max_new_tokens: int = 4096,
    temperature: float = 0.6,
    top_p: float = 0.95,
    seed: int = 0,
    budgets: Sequence[int] = (),
    base: str | Path | Sequence[Mapping[str, Any]] | None = None,
    system_prompt: str | None = None,
    prompt_suffix: str | None = None,
    effort: Sequence[str] = (),
    effort_instruction: str | None = None,
    perturb: Sequence[str] = (),
    answer_format: AnswerFormat = "auto",
    final_form: bool = True,
    thinking_markers: ThinkingMarkers = MARKERS,
    thinking_budgets: ThinkingBudgets | None = None,
    vote: Vote | None = None,
    uncertainty: bool = False,
    chunking: Chunking | None = None,
    limit: int | None = None,
    batch_size: int = 64,
    dtype: str | None = None,
    quantization: Quantization = NOT_QUANTIZED,
    use_vllm: bool = False,
    engine_options: Mapping[str, Any] | None = None,
    model_name: str | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """
    Measure accuracy and tokens of a model.

    Answers are judged as [`math_accuracy_reward`] judges them. With an `output_dir`, every completion is written to `completions.jsonl`
    when its batch is done, the returned records to `summary.json`, the settings that completions depend on to `settings.json`, and the
    problems to `problems.jsonl`. A second call generates only missing completions. Each batch has a separate seed, so the result of an
    interrupted run is that of an uninterrupted one, and added completions do not repeat any on file.

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or `Sampler`):
            Path or Hub id of a model or of an adapter, `demo` for the embedded model, a model in memory, or an object that generates.
        datasets (`str`, `Sequence[str]` or `Mapping[str, Dataset]`):
            Problem sets by name (see [`load_problem_sets`]), or datasets with the columns `prompt` and `solution`. Of a name
            that is an absolute path, the results have the name of the file only.
        output_dir (`str` or `Path`, *optional*):
            Folder of the results. `None` keeps nothing.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Tokenizer of a model in memory.
        num_completions (`int`, *optional*, defaults to `1`):
            Completions per problem.
        max_new_tokens, temperature, top_p, seed:
            See `SamplingSettings`. They default to `4096`, `0.6`, `0.95` and `0`.
        budgets (`Sequence[int]`, *optional*):
            Token limits at which the same completions are truncated and judged again: the effect of a lower limit alone.
        base (`str`, `Path` or `Sequence[Mapping]`, *optional*):
            Summary of the base model (records, `summary.json` or its folder), which the accuracy-efficiency scores
            compare with.
        system_prompt (`str`, *optional*):
            System message before every problem. It replaces a system message of the dataset; a prompt that is text
            becomes a user message after it.
        prompt_suffix (`str`, *optional*):
            Text after every problem, for example an instruction on the form of the answer.
        effort (`Sequence[str]`, *optional*):
            Levels of effort, such as `["low", "high"]`. Each set is evaluated at each of them, as `"<set>, <level> effort"`.
        effort_instruction (`str`, *optional*):
            Text that asks for a level, after the problem and the suffix; `"Reasoning effort: {level}."` by default. See [`~trl_concise.data.with_effort`].
        perturb (`Sequence[str]`, *optional*):
            Perturbations, names of [`~trl_concise.data.perturbations.PERTURBATIONS`]. Each set is also evaluated under each of them, as
            `"<set>, <perturbation>"`, and compared with the original in `stress` of the records (see [`~trl_concise.evaluation.stress.add_stress`]).
        answer_format (`str`, *optional*, defaults to `"auto"`):
            Where the final answer of a completion is looked for: `"auto"`, `"boxed"`, `"answer_tag"` or `"last_number"` (see
            [`math_accuracy_reward`]).
        final_form (`bool`, *optional*, defaults to `True`):
            Whether an answer that leaves arithmetic to be done, such as `6 * 7`, is wrong.
        thinking_markers ([`ThinkingMarkers`], *optional*):
            The texts around the reasoning, from which it is known whether a completion thought. Default: `<think>` and
            `</think>`.
        thinking_budgets ([`ThinkingBudgets`], *optional*):
            Numbers of thinking tokens after which the same completions are stopped and have to answer: what their first
            thoughts are worth.
        vote ([`Vote`], *optional*):
            How the completions of each problem vote for its answer. The record of a set then has `vote`, the figures of [`count_votes`].
        uncertainty (`bool`, *optional*, defaults to `False`):
            Whether to score every token in one more pass: entropies and likelihoods of each completion in `uncertainty.jsonl`, and in the record of a
            set `uncertainty`, the figures of [`~trl_concise.evaluation.uncertainty.summarize_uncertainty`].
        chunking ([`Chunking`], *optional*):
            Has completions written in chunks, each with a context of the prompt and a carried part, as [`~trl_concise.methods.delethink.Delethink`]
            trains them. The carried part and the last chunk are judged; `max_new_tokens` limits the whole completion.
        limit (`int`, *optional*):
            Use at most this many problems of each set, the first ones.
        batch_size (`int`, *optional*, defaults to `64`):
            Completions that are generated at a time.
        dtype (`str`, *optional*):
            Data type of the weights, such as `"bfloat16"`. Default: that of the checkpoint.
        quantization ([`~trl_concise.evaluation.quantization.Quantization`], *optional*):
            In which mode to load the model, with transformers; not quantized by default. It is part of the settings, so that an
            interrupted evaluation continues in the same mode only.
        use_vllm (`bool`, *optional*, defaults to `False`):
            Whether to generate with vLLM. Give it a `batch_size` in the thousands.
        engine_options (`Mapping[str, Any]`, *optional*):
            Arguments of `vllm.LLM`, for example `gpu_memory_utilization` or `tensor_parallel_size`. `max_model_len` defaults
            to the longest prompt plus `max_new_tokens`, at most the model's context.
        model_name (`str`, *optional*):
            Name of the model in the results. Defaults to `model`; of a local path, to the last folder, and of a checkpoint
            to `run/checkpoint-120`.
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar.

    Returns:
        `list[dict[str, Any]]`: One record per problem set, then one per set and budget, and one per set and thinking budget, which has
        `thinking_budget` and the figures of [`summarize_budgeted`] in addition. Each has the figures of
        [`summarize`], and `dataset`, `budget` (`None` for the whole completions), `model`, `seed`, `temperature`,
        `top_p`, `max_new_tokens`, `chunk_size`, `keep_head`, `system_prompt_sha256`, `prompt_suffix_sha256`, `answer_format`, `final_form`,
        `judge` (see [`~trl_concise.evaluation.judges.describe_judge`]), `engine`, `dtype`, `quantization` (`None`, or
        [`~trl_concise.evaluation.quantization.Quantization.describe`]) and `limit` (`None` for the whole set). A set with axes also has
        `axes`, the figures of [`~trl_concise.evaluation.axes.summarize_axes`]. For a named set
        from the Hub, also `dataset_id`, `dataset_config` and `dataset_split`. With a `base`, also
        `base_model`, `accuracy_efficiency_score` and `accuracy_efficiency_weights`; the score is `None` if the base was
        not measured on the set or has no correct answer.

    Raises:
        `ValueError`: If an argument is out of range, a set or all of its reference answers cannot be read, a model in memory
            has no name, `output_dir` is a file or has an evaluation of other problems, with other settings or of other
            weights, or the base was measured on other problems or with other settings (except the seed and the number of
            completions).
        `FileNotFoundError`: If a model, a set or a file is found neither locally nor on the Hub.

    Example:

    ```python
    >>> from trl_concise.evaluation import evaluate

    >>> records = evaluate("Qwen/Qwen2.5-1.5B-Instruct", ["gsm8k", "math500"], "outputs/base", num_completions=4)
    ```
    """
    budgets = sorted(set(budgets))
    if num_completions < 1 or batch_size < 1 or (limit is not None and limit < 1) or (budgets and budgets[0] < 1):
        raise ValueError(
            "num_completions, batch_size, limit and budgets must be at least 1; got "
            f"{num_completions}, {batch_size}, {limit} and {budgets}."
        )
    if answer_format not in ANSWER_FORMATS:
        raise ValueError(
            f"answer_format must be one of {', '.join(map(repr, ANSWER_FORMATS))}; got {answer_format!r}."
        )
    settings = SamplingSettings(max_new_tokens, temperature, top_p, seed)
    if thinking_budgets is not None:
        thinking_budgets.check(max_new_tokens, thinking_markers)
    if vote is not None:
        vote.check(num_completions)
    if chunking is not None:
        chunking.check(max_new_tokens, stops_thinking=thinking_budgets is not None)
        if uncertainty:
            raise ValueError("Completions in chunks have no uncertainty: leave --record, or --chunk_size, out.")
    base_records = read_base(base)
    loaded = load_sets(datasets)
    sources = loaded.sources if isinstance(loaded, ProblemSets) else {}
    if perturb and effort:
        raise ValueError("perturb and effort are not possible in one evaluation. Leave one of them out.")
    variants = perturb_sets(loaded, perturb, limit=limit)
    asked_sets = {**loaded, **{key: variant.problems for key, variant in variants.items()}}
    whole = {key: add_to_prompts(dataset, system_prompt, prompt_suffix) for key, dataset in asked_sets.items()}
    whole = at_levels(whole, effort, effort_instruction)
    limits = {key: limit if limit is not None and limit < len(dataset) else None for key, dataset in whole.items()}
    limits |= {key: len(v.problems) for key, v in variants.items() if limits[v.parent]}  # those of the same originals
    sets = {key: dataset.select(range(limits[key] or len(dataset))) for key, dataset in whole.items()}
    judging: dict[str, Any] = {"answer_format": answer_format, "final_form": final_form}
    markers = {"thinking_markers": [thinking_markers.start, thinking_markers.end]}
    texts = {"system_prompt": system_prompt, "prompt_suffix": prompt_suffix}
    digests = {f"{key}_sha256": text and hashlib.sha256(text.encode()).hexdigest() for key, text in texts.items()}
    chunks = asdict(chunking) if chunking is not None else dict.fromkeys(("chunk_size", "keep_head"))
    judged_by = {"judge": describe_judge(**judging)}
    common = {**asdict(settings), **chunks, **digests, **judging, **judged_by}
    how = {key: {**sources.get(key, {}), **common, "limit": limits[key]} for key in whole}
    name = model_name or name_of(model)
    folder = Path(output_dir) if output_dir is not None else None
    if engine_options and not use_vllm:
        raise ValueError(
            f"The engine options {sorted(engine_options)} are for vLLM. Set use_vllm=True, or leave them out."
        )
    written = {
        "model": name,
        "weights": fingerprint(model),
        **asdict(settings),
        **chunks,
        **texts,
        **judging,
        **judged_by,
        **markers,
        "engine": "vllm" if use_vllm else "transformers",
    }
    done = read_folder(folder, written) if folder is not None else []
    source = find_source(model, tokenizer, dtype, quantization, use_vllm=use_vllm)
    written |= source.settings
    if folder is not None:
        check_settings(folder, written)
    loaded_as = {"engine": written["engine"], **source.settings}
    how = {key: settings_of_set | loaded_as for key, settings_of_set in how.items()}
    unreadable = {set_name: find_unreadable(set_name, dataset["solution"]) for set_name, dataset in sets.items()}
    for set_name, dataset in sets.items():  # before anything is generated
        record = {**how[set_name], "problems": len(dataset) - len(unreadable[set_name])}
        if different := differing_from_base({"dataset": set_name, **record}, base_records):
            raise ValueError(f"{different} Evaluate both with the same settings, or leave the base out.")

    if isinstance(model, str):
        options = dict(engine_options or {})
        if use_vllm and "max_model_len" not in options:
            asked = (prompt for dataset in sets.values() for prompt in dataset["prompt"])
            longest = max(map(len, tokenize_prompts(source.tokenizer, asked))) + (
                chunks["chunk_size"] or max_new_tokens
            )
            if thinking_budgets is not None:
                longest += thinking_budgets.extra_tokens(source.tokenizer)
            if vote is not None:
                longest += vote.extra_tokens(source.tokenizer, max_new_tokens)
            longest += uncertainty  # vLLM scores a text only with room for one more token
            options["max_model_len"] = min(longest, source.path and context_length(source.path) or math.inf)
        sampler = load_sampler(model, use_vllm=use_vllm, dtype=dtype, quantization=quantization, **options)
    else:
        sampler = model if isinstance(model, Sampler) else TransformersSampler(model, source.tokenizer)
    if chunking is not None:
        sampler = ChunkedSampler(sampler, chunking)
    # Before the settings are written: if the template refuses the system prompt, no folder with it must remain
    prompts = {set_name: tokenize_prompts(sampler.tokenizer, list(data["prompt"])) for set_name, data in sets.items()}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        settled = written | ({"vote": vote.settings()} if vote is not None else {})
        write_atomically(folder / SETTINGS_FILE, (json.dumps(settled, indent=2) + "\n").encode())

    records: list[dict[str, Any]] = []
    drawn: dict[str, list[Completion]] = {}
    with progress_bar(progress) as bar:
        for set_name, dataset in sets.items():
            known = {(item.problem, item.completion): item for item in done if item.dataset == set_name}
            completions = complete_set(
                sampler,
                set_name,
                dataset,
                prompts[set_name],
                unreadable[set_name],
                num_completions,
                settings,
                {**judging, "markers": thinking_markers},
                batch_size,
                known,
                folder,
                bar,
            )
            drawn[set_name] = completions
            for budget in [None, *budgets]:
                items = truncate_at(completions, budget, sampler.tokenizer) if budget is not None else completions
                record = {"dataset": set_name, **summarize(items, thinking_markers), "budget": budget, "model": name}
                record |= how[set_name]
                if (axes := summarize_axes(items, dataset)) is not None:
                    record["axes"] = axes
                if vote is not None and budget is None:
                    record["vote"] = count_votes(
                        *(completions, vote, sampler, list(dataset["prompt"]), settings, folder),
                        answer_format=answer_format,
                        markers=thinking_markers,
                        batch_size=batch_size,
                        bar=bar,
                    )
                if uncertainty and budget is None:
                    scored = record_uncertainty(
                        *(completions, sampler, prompts[set_name], folder), batch_size=batch_size, bar=bar
                    )
                    record["uncertainty"] = summarize_uncertainty(completions, scored)
                records.append(record | efficiency(record, base_records) if base_records is not None else record)
            if thinking_budgets is not None:
                found = answer_within_all(
                    *(completions, thinking_budgets, sampler, prompts[set_name], settings, folder, written),
                    markers=thinking_markers,
                    batch_size=batch_size,
                    unreadable=unreadable[set_name],
                    **judging,
                )
                for budget, stopped in found.items():
                    record = {"dataset": set_name, **summarize_budgeted(stopped, thinking_markers), "budget": budget}
                    record |= {"thinking_budget": budget, "model": name} | how[set_name]
                    records.append(record | efficiency(record, base_records) if base_records is not None else record)
    add_stress(records, variants, drawn)
    records.sort(key=lambda record: (record["budget"] is not None, "thinking_budget" in record, record["budget"] or 0))
    if folder is not None:
        write_problems(folder, sets)  # now that those of earlier completions are known to be the same
        write_atomically(folder / SUMMARY_FILE, (json.dumps(records, indent=2, allow_nan=False) + "\n").encode())
    return records
