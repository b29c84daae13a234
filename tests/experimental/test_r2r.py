# SPDX-License-Identifier: Apache-2.0
"""R2R: golden values of the specification, what must hold for the sampler and the labels, invalid input, and the example."""

from __future__ import annotations

import copy
import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import tiny
from trl_concise import demo
from trl_concise.demo.settings import model_path
from trl_concise.evaluation import evaluate
from trl_concise.evaluation.sampling import SamplingSettings, TransformersSampler, tokenize_prompts
from trl_concise.experimental.r2r import (
    EntropyRule,
    RandomRule,
    RoutedSampler,
    RouterConfig,
    RouterRule,
    RouterTraining,
    TokenRouter,
    label_tokens,
    load_pair,
    train_router,
)
from trl_concise.experimental.r2r.demo import build_small_model, small_model
from trl_concise.experimental.r2r.evaluation import LARGE, compare, difference, table
from trl_concise.experimental.r2r.judges import ArithmeticJudge, Comparison, ModelJudge, judge_request, parse_verdict
from trl_concise.experimental.r2r.labels import (
    LabeledResponse,
    TokenKind,
    count_kinds,
    find_mismatches,
    read_labels,
    write_labels,
)
from trl_concise.experimental.r2r.reading import CachedReader, read_completion
from trl_concise.experimental.r2r.router import positive_weight, router_loss, search_threshold
from trl_concise.experimental.r2r.rules import Proposals, RoutingRule, entropy, mean_parameters
from trl_concise.experimental.r2r.sampling import AloneSampler, draw_tokens
from trl_concise.experimental.r2r.training import token_features


GREEDY = SamplingSettings(max_new_tokens=10, temperature=0.0)
SAMPLED = SamplingSettings(max_new_tokens=10, temperature=1.3, top_p=0.9, seed=3)
DEMO_ROUTER = RouterConfig(top_k=32, width=32, blocks=2, expansion=2)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(model_path())


@pytest.fixture(scope="module")
def large(tokenizer):
    return TransformersSampler(AutoModelForCausalLM.from_pretrained(model_path()), tokenizer)


@pytest.fixture(scope="module")
def small(tokenizer):
    return TransformersSampler(build_small_model(tokenizer), tokenizer)


@pytest.fixture(scope="module")
def prompts(tokenizer):
    """Prompts of different lengths."""
    problems = demo.problem_dataset(4, operations=(2, 3))
    return tokenize_prompts(tokenizer, list(problems["prompt"]))


@pytest.fixture(scope="module")
def responses(small, large, prompts):
    return label_tokens(small, large, prompts[:3], ArithmeticJudge(), max_new_tokens=30, continuation_tokens=10)


@pytest.fixture(scope="module")
def router(small):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TokenRouter.for_model(small.model, DEMO_ROUTER).eval()


class AtPositions(RoutingRule):
    """The large model writes the tokens at some positions of a single row."""

    name = "at positions"

    def __init__(self, *positions: int):
        self.positions = positions
        self.step = -1

    def routes(self, proposals: Proposals) -> torch.Tensor:
        self.step += 1
        return torch.full_like(proposals.tokens, self.step in self.positions, dtype=torch.bool)


# Golden values


def test_parameters_of_the_router():
    with torch.device("meta"):
        released = TokenRouter(torch.empty(151_936, 1536), 1536)
        ours = TokenRouter(torch.empty(326, 96), 96, DEMO_ROUTER)
    assert sum(parameter.numel() for parameter in released.parameters()) == 56_302_081
    assert sum(parameter.numel() for parameter in ours.parameters()) == 22_081


def test_the_small_model_has_the_parameters_of_the_specification(small, large):
    assert small.model.num_parameters() == 234_912 and large.model.num_parameters() == 912_768


def test_mean_parameters():
    assert mean_parameters(0.1344262295, 1.5, 32)[0] == pytest.approx(5.6)
    assert mean_parameters(0.128125, 1.5, 32)[1] == pytest.approx(5.6)
    assert mean_parameters(8 / 80, 234_912, 883_680) == pytest.approx((299_788.8, 323_280.0))
    with pytest.raises(ValueError, match="between 0 and 1"):
        mean_parameters(1.1, 1, 2)


def test_mismatches_leave_out_the_end():
    assert find_mismatches([11, 12, 13, 14, 15, 2], [11, 22, 13, 24, 15, 2], {2}) == [0, 1, 0, 1, 0, 0]
    assert find_mismatches([11, 3], [11, 2], {2}) == [0, 0]  # the path ends here
    assert find_mismatches([2, 2], [11, 2], {2}) == [1, 0]  # the small model would end


PROBABILITIES = [0.9, 0.6, 0.3, 0.7, 0.4, 0.2, 0.1, 0.1, 0.05, 0.02]


@pytest.mark.parametrize(
    ("min_recall", "threshold", "share"),
    [(0.95, 0.2079797980, 0.5), (0.6, 0.4059595960, 0.3), (0.3, 0.7029292929, 0.1)],
)
def test_threshold_search(min_recall, threshold, share):
    found = search_threshold(PROBABILITIES, [1, 1, 1, 0, 0, 0, 0, 0, 0, 0], min_recall)
    assert found.value == pytest.approx(threshold, abs=1e-9) and found.flagged_share == pytest.approx(share)


def test_threshold_search_takes_the_highest_recall_if_none_suffices():
    found = search_threshold([0.9, 0.005, 0.5], [1, 1, 0])
    assert found.recall == 0.5 and found.flagged_share == pytest.approx(1 / 3) and found.value > 0.5


def test_loss():
    labels = torch.tensor([1.0, 0.0, 0.0])
    assert router_loss(torch.tensor([1.0, -1.0, 0.5]), labels, 7 / 3).item() == pytest.approx(0.6727608697)
    assert positive_weight(torch.tensor([1] * 3 + [0] * 7)).item() == pytest.approx(7 / 3)
    assert positive_weight(torch.tensor([1, 0]), recall_factor=2.0).item() == 2


@pytest.mark.parametrize(
    ("logit", "probability", "is_large"), [(-0.381, 0.4058857319, False), (-0.38, 0.4061268971, True)]
)
def test_route_at_the_threshold(small, logit, probability, is_large):
    router = TokenRouter.for_model(small.model, DEMO_ROUTER)
    torch.nn.init.zeros_(router.out.weight)
    torch.nn.init.constant_(router.out.bias, logit)
    proposals = Proposals(torch.zeros(1, 96), torch.zeros(1, 326), torch.tensor([5]), torch.zeros(1))
    routed = RouterRule(router, 0.4059595960).routes(proposals)
    assert routed.tolist() == [is_large]
    assert torch.tensor(logit, dtype=torch.float64).sigmoid().item() == pytest.approx(probability)


def test_entropy():
    logits = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]])
    assert entropy(logits).tolist() == pytest.approx([0.6931471806, 0.3653338551, 0.0900947678])
    proposals = Proposals(logits, logits, torch.zeros(3, dtype=torch.long), torch.zeros(3))
    assert EntropyRule().routes(proposals).tolist() == [True, False, False]
    assert entropy(torch.tensor([[0.0, -torch.inf]])).item() == 0


def test_positions_that_the_large_model_reads(small, large):
    endless = [TransformersSampler(sampler.model, sampler.tokenizer) for sampler in (small, large)]
    sampler = RoutedSampler(*endless, AtPositions(3, 10, 11))
    sampler.end_token_ids = set()
    read = []
    hook = large.model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    (drawn,) = sampler.draw([list(range(5, 29))], SamplingSettings(max_new_tokens=40, temperature=0.0))
    hook.remove()
    assert len(drawn.ids) == 40 and drawn.routed == [3, 10, 11]
    assert drawn.large_positions == sum(read) == 35 and read == [27, 7, 1]
    assert drawn.large_share == 3 / 40
    alone = AloneSampler(endless[1], is_large=True)
    endless[1].end_token_ids = {325}
    (ids,) = alone.sample([list(range(5, 29))], SamplingSettings(max_new_tokens=40, temperature=0.0))
    assert len(ids) == 40 and alone.completions[0].large_positions == 63


def test_nucleus_keeps_the_token_that_crosses_it():
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log().expand(100, 3)
    uniforms = torch.arange(100) / 100
    drawn = draw_tokens(logits, uniforms, SamplingSettings(temperature=1.0, top_p=0.7))
    assert set(drawn.tolist()) == {0, 1} and drawn.tolist().count(0) == pytest.approx(100 * 5 / 8, abs=1)


# What must hold


@pytest.mark.parametrize("threshold", [0.0, 1.01])
def test_threshold_0_is_the_large_model_and_one_above_1_the_small_model(small, large, router, prompts, threshold):
    drawn = RoutedSampler(small, large, RouterRule(router, threshold)).sample(
        prompts, replace(GREEDY, max_new_tokens=80)
    )
    alone = small if threshold else large
    assert drawn == alone.sample(prompts, replace(GREEDY, max_new_tokens=80))
    assert threshold or any(ids[-1] in large.end_token_ids for ids in drawn)


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_row_does_not_depend_on_the_others(small, large, prompts, settings):
    for rule in (RandomRule(0.4), EntropyRule(1.0)):
        sampler = RoutedSampler(small, large, rule)
        together = sampler.draw(prompts, settings)
        padded = sampler.draw([prompts[0], [*prompts[1], *prompts[2]], *prompts[2:]], settings)
        assert [together[0], *together[2:]] == [padded[0], *padded[2:]]
        assert sampler.draw(prompts[:1], settings) == together[:1]
        assert any(item.routed for item in together)


def test_the_large_model_reads_up_to_the_last_routed_position(small, large, prompts):
    for item, prompt in zip(RoutedSampler(small, large, RandomRule(0.2)).draw(prompts, GREEDY), prompts, strict=True):
        assert item.large_positions == (len(prompt) + item.routed[-1] if item.routed else 0)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1).filter(lambda rows: any(y for _, y in rows)),
    st.floats(0, 1),
    st.floats(0, 1),
)
@settings(max_examples=50)
def test_the_flagged_share_does_not_increase_with_the_threshold(rows, recall, other):
    probabilities, labels = zip(*rows, strict=True)
    low, high = (search_threshold(probabilities, labels, value) for value in sorted((recall, other), reverse=True))
    assert low.value <= high.value and low.flagged_share >= high.flagged_share
    assert low.flagged_share == pytest.approx(sum(p >= low.value for p in probabilities) / len(labels))


def test_routes_do_not_increase_with_the_threshold(small, router):
    generator = torch.Generator().manual_seed(0)
    logits, hidden = torch.randn(50, 326, generator=generator), torch.randn(50, 96, generator=generator)
    proposals = Proposals(hidden, logits, logits.argmax(-1), torch.zeros(50))
    shares = [RouterRule(router, threshold).routes(proposals).float().mean() for threshold in (0, 0.4, 0.5, 0.6, 1.01)]
    assert shares == sorted(shares, reverse=True) and shares[0] == 1 and shares[-1] == 0


def test_two_equal_models_agree_at_every_threshold(large, prompts):
    torch.manual_seed(0)
    router = TokenRouter.for_model(large.model, DEMO_ROUTER)
    texts = [RoutedSampler(large, large, RouterRule(router, t)).sample(prompts, GREEDY) for t in (0, 0.5, 1.01)]
    assert texts[0] == texts[1] == texts[2]
    labeled = label_tokens(large, large, prompts[:2], ArithmeticJudge(), max_new_tokens=20)
    assert all(not any(response.kinds) for response in labeled)
    with pytest.raises(ValueError, match="0 of the 2 responses have a divergent token"):
        train_router(large.model, labeled, DEMO_ROUTER)


def test_labels_are_0_where_both_models_agree(small, large, responses, prompts):
    assert [item.completion_ids for item in responses] == large.sample(prompts[:3], replace(GREEDY, max_new_tokens=30))
    counts = count_kinds(responses)
    assert counts["divergent"] and counts["neutral"] and not counts["unreadable"]
    for item in responses:
        for own, other, kind, label in zip(
            item.proposed_ids, item.completion_ids, item.kinds, item.labels, strict=True
        ):
            assert label == (kind == TokenKind.DIVERGENT)
            if own == other or other in large.end_token_ids:
                assert kind == TokenKind.IDENTICAL


def test_training_the_router_changes_neither_model(small, large, responses):
    before = [parameter.clone() for sampler in (small, large) for parameter in sampler.model.parameters()]
    random = torch.get_rng_state()
    training = RouterTraining(learning_rate=1e-2, epochs=8, min_recall=0.9)
    router = train_router(small.model, responses, DEMO_ROUTER, training)
    after = [parameter for sampler in (small, large) for parameter in sampler.model.parameters()]
    assert all(map(torch.equal, before, after)) and all(parameter.grad is None for parameter in after)
    assert torch.equal(torch.get_rng_state(), random)
    assert not router.embeddings.requires_grad and router.embeddings.grad is None
    assert torch.equal(router.embeddings, small.model.get_input_embeddings().weight)
    again = train_router(small.model, responses, DEMO_ROUTER, training)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in router.state_dict().items())
    assert router.recall >= 0.9 and 0 < router.flagged_share <= 1 and not router.training


def test_a_router_learns_which_tokens_diverge(small, responses):
    by_token = [replace(item, kinds=[2 * (token % 2) for token in item.proposed_ids]) for item in responses]
    training = RouterTraining(learning_rate=1e-2, batch_size=16, epochs=30, patience=30)
    router = train_router(small.model, by_token, DEMO_ROUTER, training)
    data = token_features(small.model, by_token, 32)
    logits = router(data.hidden, data.top_logits, data.tokens)
    assert logits[data.labels == 1].mean() > logits[data.labels == 0].mean() + 1


# Reading


def test_a_reader_reads_ragged_rows_as_one_pass_does(large, prompts):
    reader = CachedReader(large.model, 3)
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(5, 300, (length,), generator=generator).tolist() for length in (17, 9, 23)]
    plans = [
        ([0, 2], [5, 9]),
        ([0, 2], [3, 1]),
        ([1], [8]),
        ([0, 1, 2], [1, 1, 1]),
        ([0, 1, 2], [1, 0, 1]),
        ([0, 2], [7, 11]),
    ]
    seen = {}
    with torch.inference_mode():
        for rows, counts in plans:
            own = [(row, count) for row, count in zip(rows, counts, strict=True) if count]
            start = dict(enumerate(reader.lengths))
            logits, hidden = reader.read([r for r, _ in own], [ids[r][start[r] : start[r] + n] for r, n in own])
            seen |= {row: values for (row, _), values in zip(own, zip(logits, hidden, strict=True), strict=True)}
        assert reader.lengths == [17, 9, 23]
        for row, (logits, hidden) in seen.items():
            whole = large.model(torch.tensor([ids[row]]), output_hidden_states=True)
            torch.testing.assert_close(logits, whole.logits[0, -1], atol=2e-4, rtol=1e-4)
            torch.testing.assert_close(hidden, whole.hidden_states[-1][0, -1], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("chunk", [4, 7, 512])
def test_a_completion_is_read_in_chunks(large, monkeypatch, chunk):
    monkeypatch.setattr("trl_concise.experimental.r2r.reading.CHUNK", chunk)
    prompt, completion = list(range(5, 16)), list(range(30, 43))
    hidden, logits = map(torch.cat, zip(*read_completion(large.model, prompt, completion), strict=True))
    with torch.inference_mode():
        whole = large.model(torch.tensor([prompt + completion]), output_hidden_states=True)
    torch.testing.assert_close(logits, whole.logits[0, 10:-1], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(hidden, whole.hidden_states[-1][0, 10:-1], atol=2e-4, rtol=1e-4)


def test_sliding_windows_are_read_like_generate_does(tmp_path):
    from transformers import MistralConfig, MistralForCausalLM

    own = AutoTokenizer.from_pretrained(tiny.make_model(tmp_path))
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = MistralConfig(vocab_size=len(own), sliding_window=6, num_key_value_heads=1, **sizes)
        models.append(TransformersSampler(MistralForCausalLM(config), own))
    prompts = [list(range(5, 14)), list(range(40, 53))]
    drawn = RoutedSampler(*models, RandomRule(1.0)).sample(prompts, GREEDY)
    assert drawn == models[1].sample(prompts, GREEDY)
    assert RoutedSampler(*models, RandomRule(0.0)).sample(prompts, GREEDY) == models[0].sample(prompts, GREEDY)


def test_adapters_are_routed_like_models(small, large, prompts, tokenizer):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    lora = LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    adapted = [get_peft_model(copy.deepcopy(sampler.model), lora) for sampler in (small, large)]
    models = [TransformersSampler(model, tokenizer) for model in adapted]
    router = TokenRouter.for_model(adapted[0], DEMO_ROUTER)
    for threshold, alone in ((0.0, models[1]), (1.01, models[0])):
        drawn = RoutedSampler(*models, RouterRule(router, threshold)).sample(prompts[:2], GREEDY)
        assert drawn == alone.sample(prompts[:2], GREEDY)


# Judges


def comparison(context, original, alternative):
    return Comparison("What is 27 + 8?", context, original, alternative)


@pytest.mark.parametrize(
    ("context", "original", "alternative", "diverges"),
    [
        ("27+8=", ("3", "5\n"), ("3", "6\n"), True),
        ("2\n27+8=", ("3", "5\n"), ("4", "5\n"), True),
        ("", ("First", ", 27 + 8 = 35.\n"), ("2", "7+8=35\n"), False),  # the same, written in two ways
        ("", ("We", " need 27 + 8.\n"), ("2", "7+8=35\n"), False),  # only one asserts something
        ("\\boxed{", ("6", "4}"), ("7", "4}"), True),
        ("That ", ("agrees", ".\n"), ("differs", ".\n"), False),
    ],
)
def test_the_judge_of_the_demo(context, original, alternative, diverges):
    assert ArithmeticJudge().verdicts([comparison(context, original, alternative)]) == [diverges]


def test_verdicts_are_read_strictly():
    readable = {"Output: 1": True, "Output: 0": False, "1": True, " 0\n": False, "So, Output: 1.": True}
    assert {text: parse_verdict(text) for text in readable} == readable
    for text in ("", "2", "Output: 10", "Output: 2", "Output: 0 Output: 1", "There is 1 difference.", "-1", "10"):
        assert parse_verdict(text) is None


def test_unreadable_verdicts_are_counted_and_left_out(small, large, prompts):
    judge = ModelJudge(large, batch_size=4)  # solves problems, and writes no verdict
    responses = label_tokens(small, large, prompts[:1], judge, max_new_tokens=12, continuation_tokens=4)
    counts = count_kinds(responses)
    assert counts["unreadable"] and not counts["neutral"]
    assert len(token_features(small.model, responses, 4)) == sum(counts.values()) - counts["unreadable"]
    request = judge_request(comparison("27+8=", ("3", "5"), ("4", "1")))
    assert "<<3>>5" in request and "<<4>>1" in request and "27+8=" in request


class KeptJudge:
    """Keeps what it is asked."""

    sentence_end = r"\n"

    def verdicts(self, comparisons):
        self.seen = comparisons
        return [False] * len(comparisons)


def test_continuations_end_with_the_sentence_and_begin_with_the_token(small, large, prompts, tokenizer):
    judge = KeptJudge()
    (response,) = label_tokens(small, large, prompts[:1], judge, max_new_tokens=40, continuation_tokens=20)
    kinds = [kind for kind in response.kinds if kind]
    assert kinds.count(TokenKind.NEUTRAL) == len(
        judge.seen
    )  # one that would end the turn is divergent without being judged
    path = tokenizer.decode(response.completion_ids, skip_special_tokens=True)
    for item in judge.seen:
        assert (item.context + "".join(item.original)) in path
        assert "\n" not in "".join(item.original)[:-1].rstrip("\n")


# Invalid input


def test_models_with_different_tokenizers_are_refused(small, tiny_model):
    other = TransformersSampler(
        AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    )
    with pytest.raises(ValueError, match="different tokenizers, with 326 and 260 tokens"):
        RoutedSampler(small, other, RandomRule(0.5))


def test_vllm_is_refused(small):
    with pytest.raises(ValueError, match="R2R cannot use vLLM"):
        load_pair("a", "b", use_vllm=True)
    with pytest.raises(ValueError, match="needs two TransformersSamplers"):
        RoutedSampler(small, object(), RandomRule(0.5))


def test_a_router_of_another_small_model_is_refused(small, large, router, tokenizer, tmp_path):
    router.save(tmp_path)
    loaded = TokenRouter.load(tmp_path, small.model)
    assert loaded.config == DEMO_ROUTER and all(
        torch.equal(value, loaded.state_dict()[name]) for name, value in router.state_dict().items()
    )
    assert not (tmp_path / "router.safetensors").stat().st_size > 4 * 22_081 + 4000  # without the embeddings
    other = build_small_model(tokenizer, seed=1)
    for model in (other, large.model):
        with pytest.raises(ValueError, match="another small model"):
            TokenRouter.load(tmp_path, model)
    with pytest.raises(ValueError, match="another small model"):
        RoutedSampler(TransformersSampler(other, tokenizer), large, RouterRule(router, 0.5))
    half = build_small_model(tokenizer).to(torch.bfloat16)
    assert TokenRouter.load(tmp_path, half).config == DEMO_ROUTER  # the data type of the weights does not matter


def test_damaged_files_are_refused(small, router, tmp_path):
    with pytest.raises(FileNotFoundError, match="Train the router first"):
        TokenRouter.load(tmp_path, small.model)
    router.save(tmp_path)
    facts = json.loads((tmp_path / "router.json").read_text())
    (tmp_path / "router.json").write_text(json.dumps({**facts, "config": {**facts["config"], "width": 16}}))
    with pytest.raises(ValueError, match="does not belong to"):
        TokenRouter.load(tmp_path, small.model)
    (tmp_path / "router.json").write_text("{}")
    with pytest.raises(ValueError, match="does not describe a router"):
        TokenRouter.load(tmp_path, small.model)
    with pytest.raises(FileNotFoundError, match="Label responses first"):
        read_labels(tmp_path / "labels.parquet", small.model)
    (tmp_path / "labels.parquet").write_text("nothing")
    with pytest.raises(ValueError, match="is not a file of labels"):
        read_labels(tmp_path / "labels.parquet", small.model)


def test_labels_are_written_and_read(small, large, responses, tmp_path):
    write_labels(tmp_path / "labels.parquet", responses, small.model)
    assert read_labels(tmp_path / "labels.parquet", small.model) == responses
    with pytest.raises(ValueError, match="of another small model"):
        read_labels(tmp_path / "labels.parquet", large.model)


def test_numbers_out_of_range_are_refused(small, large, router, prompts):
    with pytest.raises(ValueError, match="top_k = 400 is larger than the vocabulary of the small model, 326 tokens"):
        TokenRouter.for_model(small.model, RouterConfig(top_k=400))
    for threshold in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="threshold must be at least 0"):
            RouterRule(router, threshold)
        with pytest.raises(ValueError, match="entropy of at least 0"):
            EntropyRule(threshold)
        with pytest.raises(ValueError, match="between 0 and 1"):
            RandomRule(threshold)
    with pytest.raises(ValueError, match="has no threshold"):
        RouterRule(router)
    with pytest.raises(ValueError, match="top_k, width and expansion"):
        RouterConfig(width=0)
    with pytest.raises(ValueError, match="batch_size, epochs and patience"):
        RouterTraining(epochs=0)
    with pytest.raises(ValueError, match="learning_rate and recall_factor"):
        RouterTraining(learning_rate=0)
    with pytest.raises(ValueError, match="validation_share strictly between"):
        RouterTraining(validation_share=1.0)
    with pytest.raises(ValueError, match="Prompt 1 has no token"):
        RoutedSampler(small, large, RandomRule(0.5)).draw([[5], []], GREEDY)
    with pytest.raises(ValueError, match="at least one prompt"):
        label_tokens(small, large, [], ArithmeticJudge())
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        ModelJudge(large, batch_size=0)
    with pytest.raises(ValueError, match="None of the 3 labeled tokens is divergent"):
        positive_weight(torch.zeros(3))
    with pytest.raises(ValueError, match="All 3 labeled tokens are divergent"):
        positive_weight(torch.ones(3))
    with pytest.raises(ValueError, match="at least one divergent token"):
        search_threshold([0.1], [0])
    with pytest.raises(ValueError, match="min_recall must be between"):
        search_threshold([0.1], [1], 2.0)
    assert RoutedSampler(small, large, RandomRule(0.5)).draw([], GREEDY) == []


def test_models_in_training_mode_are_evaluated_and_return_to_it(small, large, router, prompts):
    sampler = RoutedSampler(small, large, RouterRule(router.train(), 0.5))
    assert not router.training
    drawn = sampler.draw(prompts[:1], GREEDY)
    small.model.train()
    assert sampler.draw(prompts[:1], GREEDY) == drawn and small.model.training and not large.model.training
    small.model.eval()


def test_state_space_models_are_refused(tokenizer, small):
    from transformers import Qwen3NextConfig

    model = build_small_model(tokenizer)
    model.config = Qwen3NextConfig(num_hidden_layers=2, layer_types=["linear_attention", "full_attention"])
    with pytest.raises(ValueError, match="layers of the kind linear_attention"):
        RoutedSampler(TransformersSampler(model, tokenizer), small, RandomRule(0.5))


def test_a_response_with_a_divergent_token_is_on_either_side_of_the_split(small, responses):
    one = [LabeledResponse([5], [6, 7], [6, 8], [0, 2]), LabeledResponse([5], [6, 7], [6, 7], [0, 0])]
    with pytest.raises(ValueError, match="1 of the 2 responses"):
        train_router(small.model, one, DEMO_ROUTER)
    router = train_router(small.model, [one[0], one[0], one[1]], DEMO_ROUTER, RouterTraining(epochs=1))
    assert router.threshold is not None


# Evaluation


def test_the_evaluator_takes_a_routed_sampler(small, large, tmp_path):
    problems = {"two": demo.problem_dataset(3)}
    options = {"max_new_tokens": 64, "temperature": 0.0, "progress": False}
    sampler = RoutedSampler(small, large, RandomRule(1.0))
    (record,) = evaluate(sampler, problems, tmp_path, model_name="routed", **options)
    (alone,) = evaluate(large.model, problems, tokenizer=large.tokenizer, **options)
    assert {**alone, "model": "routed", "dtype": None} == record and record["accuracy"] == 1
    assert (tmp_path / "completions.jsonl").is_file() and len(sampler.completions) == 3
    for call in (sampler.next_token_probabilities, sampler.score_tokens):
        with pytest.raises(ValueError, match="no probabilities of tokens"):
            call([[5]], [[6]])


def test_systems_are_compared_at_their_cost(small, large, router, responses):
    sets = {name: demo.problem_dataset(2, operations=(n,)) for name, n in (("easy", 2), ("hard", 3))}
    options = {"max_new_tokens": 12, "temperature": 0.0, "progress": False}
    systems = compare((small, large), router, responses, sets, [0.0, 1.01], **options)
    assert len(systems) == 2 + 3 * 2 + 1
    everything, nothing = (systems[f"router at {value}"]["hard"].record for value in ("0", "1.01"))
    alone = systems[LARGE]["hard"].record
    assert everything["accuracy"] == alone["accuracy"] and everything["tokens_mean"] == alone["tokens_mean"]
    assert everything["large_share"] == alone["large_share"] == 1 and nothing["large_share"] == 0
    assert everything["large_positions"] == alone["large_positions"]
    assert alone["mean_parameters_one"] == alone["mean_parameters_both"] == 912_768
    assert everything["mean_parameters_both"] == 912_768 + 234_912
    assert nothing["mean_parameters_both"] == nothing["mean_parameters_one"] == 234_912
    assert everything["cost_both"] == pytest.approx(everything["tokens_mean"] * (912_768 + 234_912))
    assert everything["router_parameters"] == 22_081 and alone["router_parameters"] == 0
    lines = table(systems, "hard", LARGE).splitlines()
    assert len(lines) == 2 + 9 and "| +0.0 [+0.0, +0.0] |" in lines[4]
    with pytest.raises(ValueError, match="completions of the same problems"):
        difference(systems[LARGE]["hard"].completions, systems[LARGE]["easy"].completions)


def test_the_example_runs_in_stages(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = Path(__file__).parents[2] / "examples" / "r2r.py"

    def run(command: str) -> None:
        monkeypatch.setattr(sys, "argv", [path.name, *command.split()])
        runpy.run_path(str(path), run_name="__main__")

    run("--stages label --problems 4 --demo_steps 1 --max_new_tokens 20 --continuation_tokens 10")
    written = Path("outputs/r2r-demo/small-model/model.safetensors").stat().st_mtime_ns
    run("--stages train eval --epochs 1 --eval_problems 1 --max_new_tokens 6")
    assert Path("outputs/r2r-demo/small-model/model.safetensors").stat().st_mtime_ns == written  # not trained again
    printed = capsys.readouterr().out
    assert "4 responses, 80 tokens" in printed and "22,081 parameters" in printed and "large model alone" in printed
    records = json.loads(Path("outputs/r2r-demo/summary.json").read_text())
    assert {record["dataset"] for record in records} == {"2 operations", "3 operations"} and len(records) == 2 * 6
    assert {"labels.parquet", "router.safetensors", "router.json"} <= {
        p.name for p in Path("outputs/r2r-demo").iterdir()
    }
    for command, message in {
        "--stages eval --output_dir other": "Run the stage label first",
        "--use_vllm": "R2R cannot use vLLM",
        "--thresholds -1": "--thresholds must be at least 0",
        "--thresholds much": "must be numbers",
        "--stages test": "must be some of label, train, eval",
        "--large_model demo": "--model_name_or_path is missing",
        "--model_name_or_path demo --large_model demo --dataset_name demo": "--judge is missing",
        "--problems 0": "must be at least 1",
        "--epochs 0": "must be at least 1",
        "--min_recall 2": "--min_recall must be between 0 and 1",
        "--temperature -1": "temperature >= 0",
    }.items():
        with pytest.raises(SystemExit):
            run(command)
        assert message in capsys.readouterr().err


def test_the_small_model_needs_a_step(tmp_path):
    with pytest.raises(ValueError, match="steps must be at least 1"):
        small_model(tmp_path / "none", steps=0)
