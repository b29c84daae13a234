# SPDX-License-Identifier: Apache-2.0
"""
Cost of a step of `REDITrainer` compared with `DPOTrainer` and SimPO (TRL's experimental CPO), and the speed of building pairs.

    python benchmarks/offline.py

All trainers get the same pairs and the same model, in one process, and take turns, one step each: loss, backward,
optimizer. DPO's reference forward pass is timed in each turn too, and subtracted. Ratios are those of neighboring
steps, which removes slow drift of the machine; the median over the turns removes outliers.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer

from trl_concise import REDIConfig, REDITrainer, build_redi_pairs, demo


def make_model(options, folder: str) -> str:
    """Save the embedded model, or a random one of another size; of a larger vocabulary the tokenizer uses the first ids."""
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
    config = AutoConfig.from_pretrained(demo.model_path())
    if options.vocabulary or options.hidden or options.layers:
        config.vocab_size = options.vocabulary or config.vocab_size
        config.intermediate_size = (
            config.intermediate_size * (options.hidden or config.hidden_size) // config.hidden_size
        )
        config.hidden_size = options.hidden or config.hidden_size
        config.num_hidden_layers = options.layers or config.num_hidden_layers
        config.layer_types = ["full_attention"] * config.num_hidden_layers
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    else:
        model = AutoModelForCausalLM.from_pretrained(demo.model_path())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_pairs(options) -> Dataset:
    """Pairs of traces of digits, `options.tokens` tokens long or a little shorter."""
    rng = random.Random(0)

    def trace() -> str:
        return "".join(rng.choices("0123456789", k=rng.randint(options.tokens * 3 // 4, options.tokens)))

    return Dataset.from_list(
        [
            {
                "prompt": f"What is {i} + {i}?",  # plain text: all trainers make the same tokens of it
                "chosen": f" {trace()}",
                "rejected": f" {trace()}",
            }
            for i in range(options.pairs)
        ]
    )


def build(trainer_class, config_class, options, model: str, peft: bool, **settings):
    args = config_class(
        output_dir=f"{model}/outputs",
        use_cpu=not torch.cuda.is_available(),
        bf16=torch.cuda.is_available(),
        per_device_train_batch_size=options.pairs,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        max_length=None,
        **settings,
    )
    trainer = trainer_class(
        model=AutoModelForCausalLM.from_pretrained(model),
        args=args,
        train_dataset=make_pairs(options),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(r=16, target_modules="all-linear") if peft else None,
    )
    trainer.create_optimizer()
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.model.train()
    return trainer, batch


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def step(trainer, batch) -> None:
    trainer.compute_loss(trainer.model, batch).backward()
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()


def policy_pass(trainer, batch) -> torch.Tensor:
    """One forward pass of the policy through the fused head, and nothing else."""
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    return trainer.model(**inputs, labels=labels, use_cache=False, fused_lm_head=True).log_probs.sum()


def saved_bytes(work: Callable[[], torch.Tensor]) -> int:
    """Memory that autograd keeps for the backward pass, parameters not counted."""
    storages: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no address comes twice

    def pack(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = work()
    total = sum(storage.nbytes() for storage in storages.values())
    del loss
    return total


def interval_of_median(values: list[float], level: float = 0.95, resamples: int = 2000) -> tuple[float, float]:
    """Return the bootstrap interval of a median."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(resamples))
    tail = int((1 - level) / 2 * resamples)
    return medians[tail], medians[-tail - 1]


def show_ratio(name: str, values: list[float]) -> None:
    low, high = interval_of_median(values)
    print(f"{name:<52}{statistics.median(values):8.3f}   (95 % interval {low:.3f} to {high:.3f})")


def measure_steps(options, model: str, peft: bool) -> None:
    redi, redi_batch = build(REDITrainer, REDIConfig, options, model, peft)
    dpo, dpo_batch = build(DPOTrainer, DPOConfig, options, model, peft)
    simpo, simpo_batch = build(CPOTrainer, CPOConfig, options, model, peft, loss_type="simpo", cpo_alpha=0.0)
    reference = dpo.ref_model or dpo.model
    turns = {
        "redi": lambda: step(redi, redi_batch),
        "dpo": lambda: step(dpo, dpo_batch),
        "reference": lambda: dpo.compute_ref_log_probs(reference, dpo_batch),
        "simpo": lambda: step(simpo, simpo_batch),
    }
    times: dict[str, list[float]] = {name: [] for name in turns}
    names = list(turns)
    for turn in range(options.warmup + options.steps):
        names = names[1:] + names[:1]  # none is always the first, or always behind the same other
        for name in names:
            taken = seconds(turns[name])
            if turn >= options.warmup:
                times[name].append(taken)

    parameters = sum(p.numel() for p in redi.model.parameters())
    rows, length = redi_batch["input_ids"].shape
    kind = "LoRA (r 16, all linear layers)" if peft else "full fine-tuning"
    print(
        f"\n{kind}: {parameters / 1e6:.2f} M parameters, {redi.model.config.vocab_size} tokens of vocabulary, batch "
        f"{rows} x {length}, {options.steps} turns"
    )
    for name, values in times.items():
        print(
            f"{name + (' forward' if name == 'reference' else ' step'):<52}{1e3 * statistics.median(values):8.1f} ms"
        )
    pure = [whole - forward for whole, forward in zip(times["dpo"], times["reference"], strict=True)]
    show_ratio(
        "redi / (dpo - reference forward), target 1.03", [a / b for a, b in zip(times["redi"], pure, strict=True)]
    )
    show_ratio("redi / dpo", [a / b for a, b in zip(times["redi"], times["dpo"], strict=True)])
    show_ratio("redi / simpo, target 1.00", [a / b for a, b in zip(times["redi"], times["simpo"], strict=True)])

    base = saved_bytes(lambda: policy_pass(redi, redi_batch))
    print(f"{'saved for backward: one policy pass':<52}{base / 2**20:8.2f} MiB")
    for name, trainer, batch in [("redi", redi, redi_batch), ("dpo", dpo, dpo_batch), ("simpo", simpo, simpo_batch)]:
        saved = saved_bytes(lambda trainer=trainer, batch=batch: trainer.compute_loss(trainer.model, batch))
        print(f"{'saved for backward: ' + name:<52}{saved / 2**20:8.2f} MiB   ({saved / base:.5f} of one pass)")


def measure_pairs(count: int) -> None:
    """Rows as OpenR1-Math-Raw has them, made on the fly; what making them takes is subtracted."""

    def rows():
        for i in range(count):
            yield {
                "problem": f"problem {i}",
                "problem_is_valid": "Yes",
                "source": "olympiads",
                "generations": [f"trace {i}"] * 4,
                "correctness": {
                    "llama_verification": [i % 3 == 0, True, False, True],
                    "math_verify_reparsed_answer": [True, i % 2 == 0, True, True],
                },
            }

    def consume(items) -> None:
        for _ in items:
            pass

    pairs = build_redi_pairs(rows())
    rate = count / (seconds(lambda: consume(pairs)) - seconds(lambda: consume(rows())))
    print(f"\n{'rows paired per second, target 50,000':<52}{rate:8,.0f}   ({count:,} rows)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="measured turns")
    parser.add_argument("--warmup", type=int, default=3, help="turns before them")
    parser.add_argument("--pairs", type=int, default=8, help="pairs per step")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of the longest trace")
    parser.add_argument(
        "--vocabulary", type=int, help="a random model with so many tokens; default: the embedded model"
    )
    parser.add_argument("--hidden", type=int, help="a random model of this hidden size")
    parser.add_argument("--layers", type=int, help="a random model with so many layers")
    parser.add_argument("--rows", type=int, default=200_000, help="rows to pair")
    options = parser.parse_args()
    torch.set_num_threads(1)

    measure_pairs(options.rows)
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(options, folder)
        for peft in (False, True):
            measure_steps(options, model, peft)


if __name__ == "__main__":
    main()
