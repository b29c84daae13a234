# SPDX-License-Identifier: Apache-2.0
"""Extra completions and scores, by a real tiny model."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.batch.generation import ForkedRandomState, GenerationRequest, pad_pairs


ROWS = [{"prompt": [{"role": "user", "content": "What is 1 + 1?"}]}, {"prompt": [{"role": "user", "content": "?"}]}]


@pytest.fixture
def trainer(tiny_model, problems, tmp_path) -> ConciseGRPOTrainer:
    return ConciseGRPOTrainer(tiny_model, tiny.even_reward, ConciseGRPOConfig(**tiny.settings(tmp_path)), problems)


def test_completions_are_ordered_by_row_and_follow_their_prefix(trainer):
    generated = trainer.generate_rollouts(ROWS, 3, prefix_ids=[[70, 71, 72], [73]], max_tokens=5)
    assert len(generated) == 6
    assert generated.prefix_ids == [[70, 71, 72]] * 3 + [[73]] * 3
    assert generated.prompt_ids[0] == generated.prompt_ids[2] != generated.prompt_ids[3]
    tokenizer = trainer.processing_class
    expected = tokenizer.apply_chat_template(ROWS[1]["prompt"], add_generation_prompt=True, return_dict=False)
    assert generated.prompt_ids[3] == expected
    assert all(1 <= len(ids) <= 5 for ids in generated.completion_ids)
    assert len({tuple(ids) for ids in generated.completion_ids}) > 1  # sampled
    ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert generated.truncated.tolist() == [ids[-1] not in ends for ids in generated.completion_ids]
    assert generated.lengths.tolist() == [
        len(ids) if cut else len(ids) - 1
        for ids, cut in zip(generated.completion_ids, generated.truncated, strict=True)
    ]
    for i, completion in enumerate(generated.completions):
        text = tokenizer.decode(generated.prefix_ids[i] + generated.completion_ids[i], skip_special_tokens=True)
        assert completion == [{"role": "assistant", "content": text}]


def test_string_prompts_give_strings(trainer):
    generated = trainer.generate_rollouts([{"prompt": "1 + 1 ="}], 2)
    assert all(isinstance(completion, str) for completion in generated.completions)


def test_the_default_limit_is_the_trainers_less_the_prefix(trainer):
    generated = trainer.generate_rollouts(ROWS, 4, prefix_ids=[[70] * 6, []])  # max_completion_length is 8
    lengths = [len(ids) for ids in generated.completion_ids]
    assert max(lengths[:4]) <= 2 and 2 < max(lengths[4:]) <= 8
    assert trainer.generation_config.max_new_tokens == trainer.generation_kwargs["max_new_tokens"] == 8


def test_scores_are_those_of_the_model(trainer, tiny_model):
    prompts, completions = [[5, 6, 7], [8]], [[10, 11], [12, 13, 14]]
    logps = trainer.score_logps(prompts, completions)
    assert logps.shape == (2, 3) and logps[0, 2] == 0 and not logps.requires_grad
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1] / trainer.temperature
        expected = logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]
        torch.testing.assert_close(logps[row, : len(completion)], expected, atol=1e-5, rtol=0)
    assert trainer.score_logps([[5]], [[]]).tolist() == [[0.0]]


def test_entropies_are_those_of_the_distributions_that_tokens_are_drawn_from(tiny_model, problems, tmp_path):
    settings = tiny.settings(tmp_path, temperature=0.7, per_device_train_batch_size=4)
    trainer = ConciseGRPOTrainer(tiny_model, tiny.even_reward, ConciseGRPOConfig(**settings), problems)
    pairs = [([5] * (1 + i % 3), [20 + i] * (1 + i % 4)) for i in range(7)]  # more rows than one chunk
    entropies = trainer.score_entropies(*map(list, zip(*pairs, strict=True)))
    assert entropies.shape == (7, 4) and not entropies.requires_grad
    model = tiny.load(tiny_model)
    for row, (prompt, completion) in enumerate(pairs):
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1] / 0.7
        expected = torch.distributions.Categorical(logits=logits).entropy()
        torch.testing.assert_close(entropies[row, : len(completion)], expected, atol=1e-5, rtol=0)
        assert not entropies[row, len(completion) :].any()


def test_a_score_does_not_depend_on_the_other_rows(trainer):
    pairs = [([5] * (1 + i % 3), [20 + i] * (1 + i % 4)) for i in range(11)]  # more rows than one chunk
    together = trainer.score_logps(*map(list, zip(*pairs, strict=True)))
    for row, (prompt, completion) in enumerate(pairs):
        alone = trainer.score_logps([prompt], [completion])[0]
        torch.testing.assert_close(together[row, : len(completion)], alone, atol=1e-5, rtol=0)


def test_extra_completions_do_not_affect_training(tiny_model, problems, tmp_path):
    class Curious(ConciseGRPOTrainer):
        asked: list = []

        def _compute_loss(self, model, inputs):
            generated = self.generate_rollouts(ROWS, 2)
            self.score_logps(generated.prompt_ids, generated.completion_ids)
            self.asked.append(generated.completion_ids)
            assert self.model.training
            return super()._compute_loss(model, inputs)

    def train(trainer_class, folder):
        args = ConciseGRPOConfig(**tiny.settings(tmp_path / folder, max_steps=2))
        trainer = trainer_class(tiny_model, tiny.even_reward, args, problems)
        trainer.train()
        return trainer

    plain, curious = train(ConciseGRPOTrainer, "plain"), train(Curious, "curious")
    assert tiny.losses(plain) == tiny.losses(curious)
    assert plain.state.num_input_tokens_seen == curious.state.num_input_tokens_seen
    assert curious.asked[0] != curious.asked[1]
    first = list(curious.asked)
    curious.asked.clear()
    assert train(Curious, "again").asked == first  # reproducible


def test_forked_states_differ_by_call_step_and_process():
    def draws(process, steps):
        fork = ForkedRandomState(0, process, torch.device("cpu"))
        values = []
        for step in steps:
            with fork.at(step):
                values.append(torch.rand(()).item())
        return values

    torch.manual_seed(7)
    expected = torch.rand(())
    torch.manual_seed(7)
    first = draws(0, [0, 0, 1])
    assert torch.rand(()) == expected  # the main state has not moved
    assert len({*first, *draws(1, [0, 0, 1])}) == 6
    assert draws(0, [1]) == first[2:]  # a run resumed at step 1
    fork, evaluated = ForkedRandomState(0, 0, torch.device("cpu")), []
    for training, expected in [(False, None), (True, first[0]), (False, None), (True, first[1])]:
        with fork.at(0, training=training):
            value = torch.rand(()).item()
        assert value == (expected or value)  # evaluation changes nothing
        evaluated += [] if training else [value]
    assert len({*first, *evaluated}) == 5


def test_bad_requests():
    row = {"prompt": "x"}
    for arguments, message in [
        (([], 1, None, None, 8), "at least one row and n >= 1, got 0 rows"),
        (([row], 0, None, None, 8), "n = 0"),
        (([row], 1, None, 0, 8), "max_tokens must be at least 1, got 0"),
        (([row], 1, [[1], [2]], None, 8), "got 2 for 1 rows"),
        (([row], 1, [[1] * 8], None, 8), "A prefix of 8 tokens leaves no room in max_completion_length = 8"),
        (([{**row, "image": object()}], 1, None, None, 8), "rows with images"),
    ]:
        with pytest.raises(ValueError, match=message):
            GenerationRequest.of(*arguments)
    for prompts, completions in [([], []), ([[1]], []), ([[]], [[1]])]:
        with pytest.raises(ValueError, match="needs a prompt of at least one token"):
            pad_pairs(prompts, completions, 0)


def test_padding_meets_between_prompt_and_completion():
    input_ids, attention_mask, width = pad_pairs([[1], [2, 3]], [[4, 5], [6]], filler=9)
    assert input_ids.tolist() == [[9, 1, 4, 5], [2, 3, 6, 9]] and width == 2
    assert attention_mask.tolist() == [[0, 1, 1, 1], [1, 1, 1, 0]]


def test_extra_completions_are_judged_by_the_correctness_function(tiny_model, problems, tmp_path):
    called = []

    def style(completions, **kwargs):
        called.append(len(completions))
        return [1.0] * len(completions)

    def judge(completion_ids, solution, log_metric, log_extra, **kwargs):
        log_metric("judged", len(solution))
        log_extra("solution", solution)
        return [
            None if gold == "2" else float(len(ids) > 1) for gold, ids in zip(solution, completion_ids, strict=True)
        ]

    args = ConciseGRPOConfig(**tiny.settings(tmp_path, correctness="judge"))
    trainer = ConciseGRPOTrainer(tiny_model, [style, judge], args, problems)
    rows = [problems[1], problems[2]]  # solutions 2 and 4
    generated = trainer.generate_rollouts(rows, 3, prefix_ids=[[], [70, 71]], max_tokens=1)
    verdicts = trainer.judge_rollouts(rows, generated)
    assert verdicts.isnan().tolist() == [True] * 3 + [False] * 3
    assert verdicts[3:].tolist() == [1, 1, 1]  # the prefix is part of the completion
    assert not called  # a paid judge, for example
    rewards = trainer.reward_rollouts(rows, generated)
    assert rewards.shape == (6, 2) and called == [6]
    assert not trainer._pending_metrics and not trainer._pending_extra_logs
