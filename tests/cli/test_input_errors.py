# SPDX-License-Identifier: Apache-2.0
"""What is given to a command is wrong: one line that names what to change, and exit status 2, from every command."""

from __future__ import annotations

import json
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import disable_progress_bars, enable_progress_bars
from transformers.utils.logging import disable_progress_bar, enable_progress_bar

from tests import tiny
from trl_concise import HAPOConfig, HAPOTrainer
from trl_concise.cli.commands import COMMANDS, LAUNCHER_FLAGS, TRAINING, main
from trl_concise.cli.launch import examples_folder
from trl_concise.errors import report_input_errors


NORMALIZED = "--multi_objective_aggregation normalize_then_sum"
GROUPS = "--num_generations 4 --max_completion_length 16 --steps_per_generation 1"
QUICK = "--max_steps 1 --per_device_train_batch_size 8 --report_problems 0"
BY_LENGTH = "--weight 0 --length_unit characters"
ONE_CLUSTER = "--clusters 1 --length_unit characters"
FILES = {
    "a_file": "text",
    "problems.jsonl": '{"problem": "1 + 1?", "answer": "2"}\n' * 4,
    "one.jsonl": '{"problem": "1 + 1?", "answer": "2"}\n',
    "unmarked.jsonl": '{"text": "What is 1 + 2?"}\n',
    "broken.jsonl": '{"problem": \n',
    "empty.jsonl": "",
    "unquoted.yaml": "save_strategy: no\n",
    "top_p.yaml": "top_p: 1.5\n",
    "choice.yaml": "length_reward_shape: cubic\n",
    "list.yaml": "- learning_rate\n",
    "broken.yaml": "learning_rate: [1\n",
    "word.yaml": "max_steps: many\n",
    "zero.yaml": "steps_per_generation: 0\n",
    "numbers.yaml": "learning_rate: [1.0, 2.0]\n",
    "no_model.yaml": "use_cpu: true\nbf16: false\n",
    "misspelt.yaml": "model_name_or_path: mine\nuse_cpu: true\nbf16: false\nlerning_rate: 1.0\n",
    "repeated.yaml": "max_steps: 1\nlearning_rate: 1.0\nmax_steps: 2\n",
    "tabs.yaml": "seed:\t1\n\t- 2\n",
    "documents.yaml": "max_steps: 1\n---\nmax_steps: 2\n",
    "nothing.yaml": "",
    "folders.yaml": "output_dir: [a, b]\n",
    "nested.yaml": "hapo:\n  length_reward_weight: 1.0\n",
    "mapping.yaml": "learning_rate: {peak: 1.0}\n",
    "epochs.yaml": "num_train_epochs: 0\n",
    "not_a_number.yaml": "entropy_coef: .nan\n",
    "loss.yaml": "loss_type: gpo\n",
    "scaled.yaml": "scale_rewards: batch\nmodel_name_or_path: mine\nuse_cpu: true\nbf16: false\n",
    "logical.yaml": "num_generations: true\n",
    "problems.txt": "1 + 1?",
    "critiques.jsonl": '{"question": "1 + 1?", "solution": "3", "critique": "Wrong. Conclusion: wrong"}\n' * 4,
    "text.jsonl": '{"problem": "1 + 1?", "answer": "2", "generations": "2"}\n',
    "correct.jsonl": '{"problem": "1 + 1?", "answer": "2", "generations": ["\\\\boxed{2}"]}\n' * 4,
    "wrong.jsonl": '{"problem": "1 + 1?", "answer": "2", "generations": ["\\\\boxed{3}"]}\n' * 4,
    "halves.jsonl": '{"prompt": "1 + 1?", "chosen": "2"}\n' * 4,
    "pairs.jsonl": '{"prompt": "1 + 1?", "chosen": "2", "rejected": "3"}\n' * 4,
}
ROWS = [
    # command line, what the line names
    ("", "hpao", "'hapo'"),
    ("", "--nonsense", "--nonsense"),
    # every training command, and what all of them share
    *[(name, "--lerning_rate 1", "--learning_rate") for name in TRAINING],
    *[(name, "--max_steps many", "--max_steps") for name in TRAINING],
    ("tdrm", "--rollouts out", "--rollouts needs the problems that were evaluated: name them with --dataset_name"),
    ("tdrm", "--dataset_name problems.jsonl --rollouts missing", "Give the output folder of `trl-concise eval`"),
    ("tdrm", "--dataset_name problems.jsonl", "lacks the columns"),
    ("tdrm", "--gamma 2", "gamma in [0, 1]"),
    ("hapo", "problems.jsonl", "problems.jsonl: every value follows an option"),
    ("hapo", "--config_file fsdp.yaml", "--accelerate_config"),
    ("hapo", "--save_strategy never", "--save_strategy"),
    ("hapo", "--bf16 True --fp16 True", "bf16"),
    ("hapo", "--load_best_model_at_end True", "--load_best_model_at_end"),
    ("hapo", "--num_processes", "--num_processes"),
    ("hapo", "--num_processes two", "--num_processes"),
    ("hapo", "--num_processes 0", "--num_processes must be an integer of at least 1, got '0'"),
    ("hapo", "--num_processes=-1", "--num_processes must be an integer of at least 1, got '-1'"),
    ("hapo", "--num_machines 0", "--num_machines"),
    ("hapo", "--num_machines 2 --machine_rank 2", "--machine_rank must be below the number of machines, 2"),
    ("hapo", "--main_process_port abc", "--main_process_port"),
    ("hapo", "--main_process_port 99999", "--main_process_port"),
    ("hapo", "--gpu_ids x", "--gpu_ids"),
    ("hapo", "--accelerate_config list.yaml", "--accelerate_config list.yaml must contain a mapping"),
    ("hapo", "--accelerate_config zero9", "--accelerate_config"),
    ("hapo", "--config nowhere.yaml", "nowhere.yaml"),
    ("hapo", "--config", "--config"),
    ("hapo", "--config list.yaml", "list.yaml must contain a YAML mapping"),
    ("hapo", "--config broken.yaml", "broken.yaml"),
    ("hapo", "--config binary.yaml", "binary.yaml"),
    ("hapo", "--config unquoted.yaml", "save_strategy: 'no'"),
    ("hapo", "--config choice.yaml", "length_reward_shape"),
    ("hapo", "--config word.yaml", "max_steps"),
    ("hapo", "--config numbers.yaml", "learning_rate"),
    ("hapo", "--config repeated.yaml", "repeated.yaml sets max_steps more than once"),
    ("hapo", "--config tabs.yaml", "tabs.yaml is not valid YAML"),
    ("hapo", "--config documents.yaml", "documents.yaml is not valid YAML"),
    ("hapo", "--config nothing.yaml", "nothing.yaml must contain a YAML mapping"),
    ("hapo", "--config nested.yaml", "no option --hapo"),
    ("hapo", "--config mapping.yaml", "learning_rate in mapping.yaml: must be a number"),
    ("hapo", "--config epochs.yaml", "num_train_epochs in epochs.yaml: must be above 0"),
    ("hapo", "--config not_a_number.yaml", "entropy_coef in not_a_number.yaml: must be a finite number"),
    ("hapo", "--config loss.yaml", "loss_type in loss.yaml must be one of 'grpo', 'dr_grpo'"),
    ("hapo", "--config logical.yaml", "num_generations in logical.yaml: must be an integer, got True"),
    ("hapo", "--config folders.yaml", "output_dir in folders.yaml: must be text"),
    ("hapo", "--config a_folder", "a_folder"),
    ("hapo", "--config no_model.yaml", "--model_name_or_path"),
    ("hapo", "--config misspelt.yaml", "--learning_rate"),
    ("hapo", "--use_cpu --bf16 False --model_name_or_path=", "--model_name_or_path"),
    (
        "hapo",
        "--model_name_or_path nobody/nothing --dataset_name problems.jsonl --use_cpu --bf16 False",
        "huggingface.co",
    ),
    ("hapo", "--model_name_or_path a_folder --dataset_name problems.jsonl --use_cpu --bf16 False", "a_folder"),
    ("hapo", "--dataset_name=", "--dataset_name"),
    ("hapo", "--dataset_name nowhere.jsonl", "nowhere.jsonl"),
    ("hapo", "--dataset_name nobody/nothing", "nobody/nothing"),
    ("hapo", "--dataset_name unmarked.jsonl", "--problem_column"),
    ("hapo", "--dataset_name broken.jsonl", "broken.jsonl"),
    ("hapo", "--dataset_name empty.jsonl", "empty.jsonl"),
    ("hapo", "--dataset_name problems.jsonl --problem_column question", "question"),
    ("hapo", "--dataset_name problems.jsonl --dataset_test_split test", "--dataset_test_split"),
    ("hapo", "--dataset_name problems.txt", ".jsonl"),
    ("hapo", "--dataset_name problems.jsonl --dataset_train_split [", "--dataset_train_split"),
    (
        "hapo",
        "--dataset_name problems.jsonl --dataset_train_split train[:0]",
        "'train[:0]' of problems.jsonl has no rows",
    ),
    ("hapo", "--dataset_test_split test", "--dataset_name"),
    ("hapo", "--eval_strategy steps --eval_steps 1", "--dataset_test_split"),
    ("hapo", "--eval_on_start True", "--dataset_test_split"),
    ("hapo", f"{QUICK} --dataset_name one.jsonl --num_generations 4", "1 rows"),
    ("hapo", "--output_dir a_file", "--output_dir a_file"),
    ("hapo", "--output_dir a_file/folder", "--output_dir a_file/folder"),
    ("hapo", "--output_dir=", "--output_dir"),
    ("hapo", f"{QUICK} --resume_from_checkpoint True", "resume_from_checkpoint"),
    ("hapo", f"{QUICK} --resume_from_checkpoint nowhere", "nowhere"),
    ("hapo", "--length_reward_weight 2", "length_reward_weight"),
    ("hapo", "--num_generations 5", "num_generations"),
    ("hapo", "--reward_weights 1 2", "reward_weights"),
    ("hapo", "--correctness judge", "correctness"),
    ("hapo", "--temperature 0", "--temperature"),
    ("hapo", "--temperature nan", "--temperature"),
    ("hapo", "--top_p=-1", "--top_p"),
    ("hapo", "--top_k=-5", "--top_k"),
    ("hapo", "--min_p 3", "--min_p"),
    ("hapo", "--repetition_penalty 0", "--repetition_penalty"),
    ("hapo", "--learning_rate nan", "--learning_rate"),
    ("hapo", "--adam_beta1 1", "--adam_beta1"),
    ("hapo", "--beta=-1", "--beta"),
    ("hapo", "--max_steps 0", "must be at least 1, or -1, got 0"),
    ("hapo", "--max_grad_norm=-1", "--max_grad_norm"),
    ("hapo", "--max_grad_norm nan", "--max_grad_norm"),
    ("hapo", "--num_train_epochs 0", "--num_train_epochs"),
    ("hapo", "--num_train_epochs=-1", "--num_train_epochs"),
    ("hapo", "--num_train_epochs inf", "must be above 0 and finite, got inf"),
    ("hapo", "--save_steps 0", "--save_steps"),
    ("hapo", "--eval_steps 0", "--eval_steps"),
    ("hapo", "--logging_steps nan", "--logging_steps"),
    ("hapo", "--warmup_steps=-1", "--warmup_steps"),
    ("hapo", "--epsilon=-1", "--epsilon"),
    ("hapo", "--epsilon_high 0", "--epsilon_high"),
    ("hapo", "--entropy_coef nan", "--entropy_coef"),
    ("hapo", "--entropy_coef inf", "must be a finite number"),
    ("hapo", "--reward_weights nan", "--reward_weights"),
    ("hapo", "--use_peft --lora_r 0", "--lora_r"),
    ("hapo", "--use_peft --lora_dropout 2", "--lora_dropout"),
    ("hapo", "--vllm_gpu_memory_utilization 2", "--vllm_gpu_memory_utilization"),
    ("hapo", "--vllm_server_port 99999", "must lie in [1, 65535]"),
    ("hapo", "--loss_type gpo", "'grpo', 'dr_grpo', 'dapo', 'bnpo', 'cispo', 'sapo', 'luspo', 'vespo'"),
    ("hapo", "--vllm_mode maybe", "'server', 'colocate'"),
    ("hapo", "--importance_sampling_level word", "'token', 'sequence'"),
    ("hapo", "--multi_objective_aggregation sum", "'sum_then_normalize', 'normalize_then_sum'"),
    ("hapo", "--vllm_importance_sampling_mode token", "'token_truncate', 'token_mask'"),
    ("hapo", "--length_reward_floor nan", "length_reward_floor"),
    ("hapo", f"{QUICK} --resume_from_checkpoint a_file", "a_file"),
    ("hapo", f"{QUICK} --resume_from_checkpoint a_folder", "a_folder is not a complete checkpoint"),
    ("hapo", "--watch_dataset nowhere.jsonl", "nowhere.jsonl"),
    ("hapo", "--watch_every 0", "--watch_every"),
    ("hapo", "--watch_problems 0", "--watch_problems"),
    ("hapo", "--max_accuracy_loss 1", "must lie in [0, 1), got 1"),
    ("hapo", "--max_accuracy_loss=-0.1", "--max_accuracy_loss"),
    ("hapo", "--watch_every 5", "--watch_every has no effect without --watch_dataset"),
    ("hapo", "--watch_problems 5", "--watch_problems has no effect without --watch_dataset"),
    ("hapo", "--on_loss best", "--on_loss has no effect without --watch_dataset"),
    ("hapo", "--max_accuracy_loss 0.1", "--max_accuracy_loss has no effect without --watch_dataset"),
    ("hapo", "--problem_column question", "--problem_column has no effect without --dataset_name"),
    ("hapo", "--dataset_config main", "--dataset_config has no effect without --dataset_name"),
    ("hapo", "--dataset_train_split test", "--dataset_train_split has no effect without --dataset_name"),
    ("hapo", "--system_prompt Think.", "--system_prompt has no effect without --dataset_name"),
    ("hapo", "--control --dataset_name problems.jsonl", "--control"),
    ("hapo", "--control --report_problems 0", "--report_problems 0"),
    ("hapo", "--prompt_suffix x", "--dataset_name"),
    ("hapo", "--config top_p.yaml", "top_p in top_p.yaml: must lie in (0, 1], got 1.5"),
    ("hapo", "--show=-1", "--show"),
    ("hapo", "--max_completion_length 0", "--max_completion_length"),
    ("hapo", "--resume_from_checkpoint=", "--resume_from_checkpoint"),
    (
        "hapo",
        "--model_name_or_path cut_model --dataset_name problems.jsonl --use_cpu --bf16 False",
        "Save or download the model again",
    ),
    ("hapo", "--per_device_train_batch_size 0", "--per_device_train_batch_size"),
    ("hapo", "--gradient_accumulation_steps 0", "--gradient_accumulation_steps"),
    ("hapo", "--num_generations 0", "--num_generations"),
    ("hapo", "--seed=-1", "--seed"),
    ("hapo", "--config zero.yaml", "steps_per_generation"),
    ("hapo", "--generation_kwargs greedy", "--generation_kwargs"),
    ("hapo", "--lr_scheduler_kwargs [1]", "--lr_scheduler_kwargs"),
    ("hapo", f"{QUICK} --dataset_name problems.jsonl {GROUPS} --scale_rewards none_at_all", "scale_rewards"),
    ("hapo", "--report_to nothing", "nothing is not supported"),
    ("sgrpo", "--probability 2", "probability"),
    ("sgrpo", "--max_tokens 0", "--max_tokens"),
    ("sgrpo", "--cutoff 0 --probability 0", "cutoff=0 with probability=0 keeps no token"),
    ("combined", "--max_tokens 0", "--max_tokens"),
    ("plan", "--method sgrpo --max_tokens 0", "--max_tokens"),
    ("length_rewards", "--method dler --scale_rewards group", "--method dler needs --scale_rewards none"),
    ("length_rewards", "--method dler --config scaled.yaml", "--method dler needs --scale_rewards none"),
    ("length_rewards", "--method dler --mask_truncated_completions True", "--mask_truncated_completions"),
    ("length_rewards", "--method efficient-reasoning --scale_rewards batch", "--scale_rewards none"),
    ("length_rewards", "--method drpo --loss_type dapo", "--method drpo needs --loss_type grpo"),
    ("length_rewards", "--method drpo --scale_rewards none", "--scale_rewards has no effect with --method drpo"),
    ("length_rewards", "--method ddca --scale_rewards none", "--scale_rewards has no effect with --method ddca"),
    ("length_rewards", f"--method ddca {NORMALIZED}", "multi_objective_aggregation"),
    ("length_rewards", f"--method dler {NORMALIZED}", "multi_objective_aggregation"),
    ("length_rewards", "--method gr3 --scale_rewards group", "--method gr3 needs --scale_rewards none"),
    (
        "effort",
        "--effort_levels low=few",
        "A level is NAME=TOKENS with at least 1 token, or NAME for no limit; got 'low=few'",
    ),
    ("effort", "--effort_levels low=0", "got 'low=0'"),
    ("effort", "--effort_levels low=9 low", "'low' was given twice"),
    ("effort", "--effort_bonus 0", "bonus must be above 0"),
    ("dler", "--truncation_factor 2", "--truncation_factor"),
    ("dler", "--scale_rewards group", "--scale_rewards has no effect with DLER"),
    ("dler", "--difficulty_thresholds 0.3", "--difficulty_thresholds has no effect without --difficulty_limits"),
    ("dler", "--difficulty_limits 20 40", "difficulty_limits"),
    ("cure", "--sources 3", "3 * (1 + 3) = 12 completions, but num_generations = 16. Set num_generations=12"),
    ("cure", "--critical_top_k 0", "top_k must be at least 1, got 0"),
    ("cure", "--stage 2 --forks 1", "--forks has no effect with --stage 2"),
    ("gfpo", "--k 0", "--k"),
    ("gfpo", "--k 9", "GFPO(k=9) cannot keep more than num_generations=8"),
    ("gfpo", "--scale_rewards none", "--scale_rewards has no effect with GFPO"),
    ("campo", "--stage_limits 64", "limits must have one more value than steps"),
    ("dynamic_sampling", "--reward_weights 0", "reward_weights are all 0"),
    ("dynamic_sampling", "--num_generations 1", "at least 2 generations"),
    ("cost_constraints", "--max_mean_tokens 0", "max_tokens must be a positive number of tokens, got 0"),
    ("cost_constraints", "--loss_limit 2", "max_loss must be a fraction in [0, 1)"),
    ("mr_rlvr", "--process_steps 0", "--process_steps must be at least 1"),
    ("mr_rlvr", "--process_tasks guess", "--process_tasks"),
    ("mr_rlvr", "--resume_from_checkpoint a_folder", "--resume_from_checkpoint a_folder does not name a stage"),
    ("mr_rlvr", "--dataset_name problems.jsonl", "None of the 4 solutions in 'answer' is usable"),
    ("mr_rlvr", "--dataset_name problems.jsonl --solution_column trace", "no column 'trace'"),
    ("mgpo", "--strength=-1", "strength must be at least 0"),
    ("saturn", "--levels 3,5,x", "--levels takes levels such as 3,5,5, got '3,5,x'"),
    ("saturn", "--levels 3,5", "three whole numbers"),
    ("saturn", "--levels 2,4,5 2,4,3", "in order of difficulty"),
    ("saturn", "--held_out 0", "at least one level and one formula per level"),
    ("saturn", "--pass_threshold 2", "threshold must lie in [0, 1], got 2"),
    ("saturn", "--validate_every 0", "every must be at least 1"),
    ("saturn", "--dataset_name problems.jsonl", "this script trains on generated formulas"),
    ("self_verify", "--verification_ratio=-1", "ratio must be a finite number of at least 0"),
    ("self_verify", "--buffer_size 0", "buffer_size must be at least 1"),
    ("mgpo", "--strength inf", "--strength"),
    ("siri", "--mask_truncated_completions True", "mask_truncated_completions"),
    ("greso", "--exploration 2", "exploration"),
    ("sgrpo", "--cutoff=-1", "cutoff"),
    ("greso", "--zero_variance_target 2", "zero_variance_target"),
    ("laser", "--target_length 0", "target_length"),
    ("laser", "--length_bonus=-1", "length_bonus"),
    ("laser_d", "--monitor_prompts 0", "monitor_prompts"),
    ("laser_d", "--target_interval 0", "target_interval"),
    ("shorter_better", "--correct_reward=-2", "correct_reward"),
    ("shorter_better", "--length_penalty=-1", "length_penalty"),
    ("tspmo", "--replay_per_prompt=-1", "replay_per_prompt"),
    ("tspmo", "--num_generations 1", "at least 2 generations"),
    ("siri", "--min_completion_length 0", "min_completion_length"),
    ("length_rewards", "--method kimi2", "--method"),
    ("combined", "--exploration 2", "exploration"),
    ("cft", "--candidates problems.jsonl", "--teacher"),
    ("cft", "--dataset_name problems.jsonl", "`critique`"),
    ("cft", "--dataset_name critiques.jsonl --max_length 4", "max_length"),
    ("cft", "--critique_template long", "critique_template"),
    ("cft", "--eval_strategy epoch", "--eval_strategy"),
    ("cft", "--output_dir a_file", "output_dir"),
    ("cft", "--candidates problems.jsonl --teacher gpt", "OPENAI_API_KEY"),
    ("cft", "--loss_type dpo", "'nll', 'dft'"),
    ("cft", "--concurrency 0", "--concurrency"),
    ("cft", "--concurrency 4", "--concurrency has no effect without --teacher"),
    ("cft", "--teacher_base_url http://localhost", "--teacher_base_url has no effect without --teacher"),
    ("cft", "--dataset_train_split test", "--dataset_train_split has no effect without --dataset_name"),
    ("cft", "--dataset_name critiques.jsonl --candidates problems.jsonl --teacher gpt", "Give one of them"),
    ("cft", "--candidates nowhere.jsonl --teacher gpt", "nowhere.jsonl"),
    ("realignment", "--lambda_ nan", "lambda_"),
    ("realignment", "--beta 0.5", "forward KL divergence"),
    ("realignment", "--dataset_name problems.jsonl", "`completion`"),
    ("realignment", "--teacher_model_name_or_path nobody/nothing", "nobody/nothing"),
    ("redi", "--alpha 2", "alpha"),
    ("redi", "--sft_num_train_epochs 0", "--sft_num_train_epochs"),
    ("redi", "--stage redi --loss_type gpo", "'sigmoid', 'hinge'"),
    ("redi", "--dataset_name pairs.jsonl --sft_max_length 0", "--sft_max_length"),
    ("redi", "--dataset_name pairs.jsonl --sft_per_device_train_batch_size 0", "--sft_per_device_train_batch_size"),
    ("redi", "--dataset_name pairs.jsonl --stage redi --max_length 1", "max_length"),
    ("redi", "--dataset_name problems.jsonl", "['generations']"),
    ("redi", "--dataset_name text.jsonl", "'generations' must hold a list"),
    ("redi", "--dataset_name correct.jsonl --stage redi", "--stage sft"),
    ("redi", "--dataset_name wrong.jsonl --stage sft", "a correct trace"),
    ("redi", "--dataset_name halves.jsonl", "['rejected']"),
    ("redi", "--dataset_name pairs.jsonl --system_prompt Think.", "--system_prompt"),
    ("redi", "--resume_from_checkpoint True", "--stage"),
    ("redi", "--stage dpo", "--stage"),
    ("redi", "--dataset_config main", "--dataset_config has no effect without --dataset_name"),
    ("redi", "--stage redi --dataset_name pairs.jsonl --loss_type ipo", "loss_type"),
    ("redi", "--stage redi --dataset_name pairs.jsonl --output_dir a_file", "output_dir"),
    # every other command
    *[(name, "--nonsense", "") for name in COMMANDS],
    ("eval", "", "model"),
    ("eval", "demo demo", "--output_dir"),
    ("eval", "demo demo --output_dir out --limit few", "--limit"),
    ("eval", "demo demo --output_dir out --budgets 1,x", "--budgets"),
    ("eval", "demo demo --output_dir out --temprature 1", "--temprature"),
    ("eval", "demo nowhere.jsonl --output_dir out", "nowhere.jsonl"),
    ("eval", "demo unmarked.jsonl --output_dir out", "--problem_column"),
    ("eval", "nobody/nothing one.jsonl --output_dir out", "nobody/nothing"),
    ("eval", "demo one.jsonl --output_dir a_file", "a_file"),
    ("eval", "demo one.jsonl --output_dir out --base nowhere", "nowhere"),
    ("eval", "demo one.jsonl --output_dir out --top_p 2", "top_p"),
    ("eval", "demo one.jsonl --output_dir out --show=-1", "--show"),
    ("eval", "demo one.jsonl --output_dir out --dataset_split [", "--dataset_split"),
    ("eval", "demo one.jsonl --output_dir out --temperature nan", "temperature"),
    ("eval", "demo one.jsonl --output_dir out --budgets 0", "budgets"),
    ("eval", "demo one.jsonl --output_dir out --effort ,", "A level must have a name"),
    ("eval", "demo one.jsonl --output_dir out --effort low --effort_instruction x", "must contain {level}"),
    ("eval", "demo one.jsonl --output_dir out --effort_instruction {level}", "without --effort"),
    ("eval", "demo problems.txt --output_dir out", ".jsonl"),
    ("eval", "a_folder one.jsonl --output_dir out", "a_folder contains no model"),
    ("report", "", "run"),
    ("report", "nowhere", "nowhere"),
    ("report", "a_folder", "a_folder"),
    ("report", "a_folder --base nowhere", "--output_dir nowhere"),
    ("report", "a_run --output_dir a_file", "a_file"),
    ("card", "", "run"),
    ("card", "nowhere", "nowhere"),
    ("card", "a_folder", "a_folder"),
    ("card", "damaged_run", "run.json is damaged"),
    ("card", "foreign_run", "run.json is damaged"),
    ("push", "", "run"),
    ("push", "a_folder --patience=-1", "--patience"),
    ("push", "nowhere", "nowhere"),
    ("push", "a_file", "a_file"),
    ("push", "a_folder", "a_folder contains neither run.json"),
    ("push", "a_folder --repo_id user/model", "a_folder contains neither run.json"),
    ("push", "a_merged_model", "repo_id"),
    ("push", "damaged_run --repo_id user/model", "run.json is damaged"),
    ("push", "foreign_run --repo_id user/model", "run.json is damaged: expected a JSON object with model_name"),
    ("push", "damaged_outbox --repo_id user/model", "outbox.json is damaged"),
    ("push", "old_outbox --repo_id user/model", "outbox.json is of an earlier version"),
    ("push", "a_folder --patience long", "--patience"),
    ("merge", "a_folder", "OUTPUT_DIR"),
    ("merge", "a_folder merged", "a_folder is not an adapter"),
    ("merge", "a_folder a_file", "a_file"),
    ("merge", "a_folder merged --dtype int8", "--dtype"),
    ("filter", "", "dataset"),
    ("filter", "one.jsonl", "--model, --output"),
    ("filter", "nowhere.jsonl --model demo --output out.jsonl", "nowhere.jsonl"),
    ("filter", "one.jsonl --model demo --output out.txt", "out.txt"),
    ("filter", "one.jsonl --model demo --output out.jsonl --keep 2 3", "keep"),
    ("filter", "one.jsonl --model demo --output out.jsonl --show=-1", "--show"),
    ("filter", "one.jsonl --model demo --output out.jsonl --dataset_split one[:0]", "has no rows"),
    ("select", "", "METHOD"),
    ("select", "select2reson one.jsonl --output out.jsonl", "select2reason"),
    ("select", "select2reason one.jsonl", "--output"),
    ("select", f"select2reason nowhere.jsonl --output out.jsonl {BY_LENGTH}", "nowhere.jsonl"),
    ("select", f"select2reason one.jsonl --output out.txt {BY_LENGTH}", "out.txt must end in .jsonl or .parquet"),
    ("select", f"select2reason one.jsonl --output one.jsonl {BY_LENGTH}", "the dataset itself"),
    (
        "select",
        f"select2reason one.jsonl --output out.jsonl {BY_LENGTH}",
        "no trace, because no column is known to hold one (1)",
    ),
    ("select", f"select2reason unmarked.jsonl --output out.jsonl {BY_LENGTH}", "--problem_column"),
    ("select", f"select2reason correct.jsonl --output out.jsonl {BY_LENGTH} --share 2", "--share must lie in (0, 1]"),
    ("select", "select2reason correct.jsonl --output out.jsonl", "--judge"),
    ("select", "select2reason correct.jsonl --output out.jsonl --weight 2", "weight must lie in [0, 1], got 2"),
    ("select", "select2reason correct.jsonl --output out.jsonl --weight 0", "--tokenizer"),
    (
        "select",
        "select2reason correct.jsonl --output out.jsonl --weight 1 --tokenizer demo",
        "--weight 1 ranks by difficulty only",
    ),
    (
        "select",
        "select2reason correct.jsonl --output out.jsonl --difficulty_column hard",
        "correct.jsonl has no column 'hard' for the difficulty",
    ),
    (
        "select",
        f"select2reason halves.jsonl --trace_column chosen --output out.jsonl {BY_LENGTH} --to grpo",
        "--to grpo needs a reference answer",
    ),
    (
        "select",
        f"select2reason correct.jsonl --output out.jsonl {BY_LENGTH} --judge demo",
        "--judge and --difficulty_column",
    ),
    (
        "select",
        f"select2reason correct.jsonl --output out.jsonl {BY_LENGTH} --tokenizer demo",
        "--tokenizer has no effect",
    ),
    ("select", f"select2reason correct.jsonl --output out.jsonl {BY_LENGTH} --seed=-1", "--seed must lie in"),
    ("select", f"select2reason correct.jsonl --output out.jsonl {BY_LENGTH} --system_prompt x", "--to rows"),
    ("select", f"select2reason correct.jsonl --output a_file/out.jsonl {BY_LENGTH}", "a_file is a file"),
    (
        "select",
        f"infialign correct.jsonl --output out.jsonl {ONE_CLUSTER} --verdict_column answer",
        "Row 1 of correct.jsonl: column 'answer' holds the verdict '2'",
    ),
    ("select", "infialign correct.jsonl --output out.jsonl --quotas math", "DOMAIN=N"),
    ("select", "infialign correct.jsonl --output out.jsonl --quotas a=1 a=2", "--quotas names a domain twice"),
    ("select", "infialign correct.jsonl --output out.jsonl --judge_base_url http://localhost", "--judge_model"),
    ("select", f"infialign correct.jsonl --output out.jsonl {ONE_CLUSTER} --size 9", "must lie between 1 and 1"),
    ("select", f"infialign wrong.jsonl --output out.jsonl {ONE_CLUSTER} --verify", "rejected by the judge (1)"),
    (
        "select",
        f"infialign halves.jsonl --trace_column chosen --output out.jsonl {ONE_CLUSTER} --verify",
        "--verify needs a reference",
    ),
    (
        "select",
        "shape_of_thought correct.jsonl --output out.jsonl --length_unit characters",
        "No row of correct.jsonl was kept: no incorrect trace (4). Check",
    ),
    (
        "select",
        "shape_of_thought halves.jsonl --output out.jsonl --length_unit characters",
        "no column is known to hold one",
    ),
    ("select", "stat_sel correct.jsonl --output out.jsonl", "--profile"),
    ("select", "stat_sel correct.jsonl --output out.jsonl --profile one.jsonl", "no column 'skills'"),
    (
        "select",
        "stat_sel correct.jsonl --output out.jsonl --skills_column generations --profile one.jsonl",
        "one.jsonl has no column 'missing_skills'",
    ),
    ("select", "stat_sel correct.jsonl --output out.jsonl --profile one.jsonl --pairs 2", "--to sft"),
    ("distill", "", "dataset"),
    ("distill", "one.jsonl", "--teacher, --output"),
    ("distill", "nowhere.jsonl --teacher demo --output out.jsonl", "nowhere.jsonl"),
    ("distill", "one.jsonl --teacher demo --output out.txt", "out.txt"),
    ("distill", "one.jsonl --teacher nobody/nothing --output out.jsonl", "nobody/nothing"),
    ("distill", "one.jsonl --teacher demo --output out.jsonl --limit 0", "limit must be at least 1"),
    ("distill", "one.jsonl --teacher demo --output out.jsonl --temperature 0", "would be the same"),
    ("distill", "one.jsonl --teacher demo --output out.jsonl --prices nan 1", "prices must be"),
    ("distill", "one.jsonl --teacher demo --output out.jsonl --concurrency 2", "no effect without --teacher_base_url"),
    (
        "distill",
        "one.jsonl --teacher t --output out.jsonl --teacher_base_url http://127.0.0.1:9 --seed 1",
        "no effect with",
    ),
    ("distill", "one.jsonl --teacher t --output out.jsonl --teacher_base_url http://127.0.0.1:9", "OPENAI_API_KEY"),
    ("distill", "one.jsonl --teacher demo --output out.jsonl --max_model_len 9", "--max_model_len has no effect"),
    ("distill", "one.jsonl --show=-1", "--show"),
    ("plan", "--method hapo --card_gib=-1", "--card_gib"),
    ("plan", "--method hapo --use_peft --lora_r 0", "--lora_r"),
    ("plan", "--method hapo --config repeated.yaml", "max_steps more than once"),
    ("plan", "--method hapo --model_name_or_path Qwen/Qwen2.5-0.5B --write_config a_folder", "--write_config"),
    ("plan", "--method hpo", "hapo"),
    ("plan", "--method hapo --model_name_or_path nowhere/nothing", "nowhere/nothing"),
    ("plan", "--max_completion_length long", "--max_completion_length"),
    ("plan", "--method hapo --config nowhere.yaml", "nowhere.yaml"),
    ("init", "", "METHOD"),
    ("init", "hpao", "'hapo'"),
    ("init", "hapo --output_dir a_file", "--output_dir"),
    ("init", "hapo --output_dir a_file/folder", "--output_dir"),
    ("init", "hapo --output_dir a_script", "--output_dir"),
    ("init", "hapo sgrpo", "sgrpo"),
    ("env", "everything", "everything"),
    ("methods", "--format xml", "--format"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with the files that the command lines name."""
    folder = tmp_path_factory.mktemp("given")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    (folder / "binary.yaml").write_bytes(bytes(range(128, 256)))
    weights = Path(tiny.make_model(folder / "cut_model"), "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    (folder / "a_folder").mkdir()
    (folder / "a_script").mkdir()
    (folder / "a_script" / "hapo.py").write_text("")
    (folder / "a_run").mkdir()
    (folder / "damaged_run").mkdir()
    (folder / "damaged_run" / "run.json").write_text("[]")
    (folder / "foreign_run").mkdir()
    (folder / "foreign_run" / "run.json").write_text('{"model_name": "mine"}')
    (folder / "a_merged_model").mkdir()
    (folder / "a_merged_model" / "config.json").write_text("{}")
    for record in ("damaged_outbox/_hub/user--model/outbox.json", "old_outbox/_hub/outbox.json"):
        (folder / record).parent.mkdir(parents=True)
        (folder / record).write_text("[]")
    state = {"log_history": [{"step": 1, "loss": 1.0, "accuracy": 0.5}]}
    (folder / "a_run" / "trainer_state.json").write_text(json.dumps(state))
    disable_progress_bars()
    disable_progress_bar()
    yield folder
    enable_progress_bars()
    enable_progress_bar()


def run(command: str, words: list[str], monkeypatch) -> int:
    """Run a command in this process; a training command without the launcher, unless an option is the launcher's."""
    if command not in TRAINING or any(word.partition("=")[0] in LAUNCHER_FLAGS for word in words):
        return main([command, *words] if command else words)
    monkeypatch.setattr(sys, "argv", [f"trl-concise {command}", *words])
    runpy.run_path(str(examples_folder() / f"{command}.py"))["main"]()
    return 0


@pytest.mark.parametrize(("command", "line", "names"), ROWS, ids=lambda value: value[:60])
def test_a_mistake_is_one_line(command, line, names, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SystemExit) as exit:
        run(command, line.split(), monkeypatch)
    said = capsys.readouterr().err.splitlines()
    assert exit.value.code == 2
    assert said[-1].startswith(f"trl-concise {command}".strip() + ": error: ") and names in said[-1]
    assert [line for line in said[:-1] if ", prompt from " not in line] == []  # which columns of a file are read


@pytest.fixture
def accelerate_default(tmp_path, monkeypatch):
    """The user has not configured accelerate."""
    for module in ("config.config_args", "launch"):
        monkeypatch.setattr(f"accelerate.commands.{module}.default_config_file", str(tmp_path / "none.yaml"))


SHORT = [*QUICK.split(), *"--dataset_name one.jsonl --num_generations 4 --output_dir out --disable_tqdm True".split()]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_launched_command_reports_an_error_in_training_once(
    processes, folder, accelerate_default, monkeypatch, capfd
):
    monkeypatch.chdir(folder)
    (folder / "two.yaml").write_text(
        "distributed_type: MULTI_GPU\nnum_processes: 2\ncompute_environment: LOCAL_MACHINE\n"
    )
    launcher = ["--accelerate_config", "two.yaml", "--main_process_port", "0"] if processes == 2 else []
    assert main(["hapo", *launcher, *SHORT]) == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said
    errors = [line for line in said.splitlines() if "error" in line.lower()]
    assert len(errors) == 1 and errors[0].startswith("trl-concise hapo: error: ") and "1 rows" in errors[0]
    assert said.splitlines()[-1] == errors[0]


def test_an_interruption_is_one_line():
    code = (
        "import time\nfrom trl_concise.errors import report_input_errors\n"
        "with report_input_errors('trl-concise hapo'):\n    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b"\ntrl-concise hapo: interrupted\n"
    assert process.returncode == 130


def raise_value_error(completions, **kwargs):
    raise ValueError("of the user's own function")


@pytest.mark.parametrize("mistake", [lambda: int("x"), lambda: max([]), lambda: {}["x"], lambda: None + 1])
def test_an_error_in_a_program_keeps_its_traceback(mistake, capsys):
    with pytest.raises((ValueError, LookupError, TypeError)), report_input_errors():
        mistake()
    assert capsys.readouterr().err == ""


def test_an_error_of_a_reward_function_keeps_its_traceback(tiny_model, problems, tmp_path):
    args = HAPOConfig(**tiny.settings(tmp_path))
    trainer = HAPOTrainer(tiny_model, raise_value_error, args, problems)
    with pytest.raises(ValueError, match="of the user's own function"), report_input_errors():
        trainer.train()
