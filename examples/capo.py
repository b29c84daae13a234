# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[critiques,peft,plots]"]
# ///
"""
Train with CAPO: a critic reads each completion, and the tokens of the steps that it finds wrong lose reward.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after. The critic is then
a program that carries out the operations again, not a language model, so nothing is requested over a network:

    accelerate launch examples/capo.py

A real model on one GPU, with a critic at an OpenAI-compatible endpoint, for example a vLLM server (`vllm serve Qwen/Qwen3-32B`):

    accelerate launch examples/capo.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k \
        --dataset_config main --use_vllm --vote intersection --output_dir outputs/capo \
        --critic_model Qwen/Qwen3-32B --critic_url http://localhost:8000/v1

The key of the endpoint is read from OPENAI_API_KEY. `--critic_model` with a folder or a name on the Hub and `--critic_url local` runs the
critic in the training process.

Time and memory: 54 GiB planned for full fine-tuning on a card of 80 GiB, without the critic, not measured on a GPU yet.

    trl-concise plan --method grpo --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --card_gib 80 --use_vllm
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trl_concise import ConciseGRPOConfig, TrainingScript
from trl_concise.errors import report_input_errors


@dataclass
class CAPOConfig(ConciseGRPOConfig):
    critic_model: str | None = field(
        default=None, metadata={"help": "Model that criticizes. Default: a program, for the generated problems only."}
    )
    critic_url: str | None = field(
        default=None,
        metadata={"help": "Address of the endpoint of the critic; `local` runs it in this process. Default: OpenAI."},
    )
    critic_temperature: float = field(default=0.7, metadata={"help": "Sampling temperature of the critic."})
    critic_tokens: int = field(default=2048, metadata={"help": "Tokens that a critique may have."})
    critic_concurrency: int = field(default=16, metadata={"help": "Requests under way at a time, per process."})
    critic_timeout: float = field(
        default=300.0, metadata={"help": "Seconds per batch after which training continues without missing critiques."}
    )
    critiques: int = field(default=4, metadata={"help": "Critiques per completion."})
    vote: str = field(
        default="majority",
        metadata={
            "help": "When a step is wrong: named by all critiques, by half of them, by one; `average`: in proportion.",
            "choices": ["intersection", "majority", "union", "average"],
        },
    )
    process_weight: float = field(
        default=1.0, metadata={"help": "Reward that a token of a wrong step loses; a correct answer earns 2."}
    )


@report_input_errors()
def main():
    script = TrainingScript(CAPOConfig, output_dir="outputs/capo-demo")

    from accelerate import PartialState  # after the command line: --help does not wait for them
    from transformers import AutoModelForCausalLM

    from trl_concise import APITeacher, ConciseGRPOTrainer, LocalTeacher, demo
    from trl_concise.methods.capo import CAPO

    args = script.training_args
    settings = {"vote": args.vote, "process_weight": args.process_weight, "timeout": args.critic_timeout}
    if args.critic_model is None:
        if script.problem_args.dataset_name is not None:
            raise ValueError(
                f"--dataset_name {script.problem_args.dataset_name} needs a critic. Name one with --critic_model, and its address with "
                "--critic_url."
            )
        # A program says the same each time. The embedded model writes one step per line.
        capo = CAPO(demo.ArithmeticCritic(), critiques=1, separator="\n", **settings)
    elif args.critic_url == "local":
        model = AutoModelForCausalLM.from_pretrained(args.critic_model, dtype="auto").to(PartialState().device)
        critic = LocalTeacher(model, temperature=args.critic_temperature, max_new_tokens=args.critic_tokens)
        capo = CAPO(critic, args.critiques, **settings)
    else:
        critic = APITeacher(
            args.critic_model,
            base_url=args.critic_url,
            temperature=args.critic_temperature,
            max_tokens=args.critic_tokens,
            concurrency=args.critic_concurrency,
            max_retries=2,
            timeout=args.critic_timeout,
        )
        capo = CAPO(critic, args.critiques, **settings)
    trainer = ConciseGRPOTrainer(
        reward_funcs=script.accuracy_reward(), token_credit=capo, **script.trainer_arguments()
    )
    script.train(trainer)
    if trainer.is_world_process_zero():
        print(capo.report())


if __name__ == "__main__":
    main()
