from . import demo
from .batch.generation import Generated, GeneratedRollouts
from .batch.rollouts import CompletionTokens, LocalRollouts, Rollouts, prompt_key
from .batch.rows import Rows
from .callbacks import ConciseProgressCallback
from .cli.script import TrainingScript
from .components import Advantage, BudgetSchedule, Component, GroupReward, Paper, PromptSelector, Rollout, TokenCredit
from .config import ConciseGRPOConfig
from .data import APITeacher, LocalTeacher, TeacherPrompt, build_critiques, build_redi_pairs, load_problems
from .evaluation import accuracy_efficiency_score, pass_at_k
from .evaluation.watch import WatchSet
from .hub.frontier import HubFrontierCallback
from .methods.cft import CFTTrainer, DataCollatorForCritique, critique_example, critique_verdict
from .methods.cft_config import CFTConfig
from .methods.curriculum import AccuracyBand
from .methods.dler import BatchWhitening, whiten
from .methods.efficient_reasoning import EfficientReasoningReward, efficient_reasoning_reward
from .methods.greso import (
    GRESO,
    GRESOTrainer,
    greso_exploration,
    greso_filter_probability,
    greso_rollout_batch_size,
)
from .methods.greso_config import GRESOConfig
from .methods.grpo_lead import DifficultyWeighting, GRPOLEADReward, difficulty_weight, grpo_lead_reward
from .methods.hapo import HAPOLengthReward, HAPOTrainer, hapo_length_reward, hapo_repetition_penalty
from .methods.hapo_config import HAPOConfig
from .methods.kimi import KimiLengthReward, kimi_length_reward
from .methods.l1 import L1Reward, l1_exact_reward, l1_max_reward, with_target_length
from .methods.laser import LASERReward, LASERTrainer, laser_base_score, laser_reward
from .methods.laser_config import LASERConfig
from .methods.laser_d import LASERDReward, LASERDTrainer, adaptive_target, is_repetitive
from .methods.laser_d_config import LASERDConfig
from .methods.one_shot_rlvr import historical_variance, rank_by_historical_variance, repeat_example
from .methods.redi import DataCollatorForREDI, REDITrainer, redi_loss
from .methods.redi_config import REDIConfig
from .methods.sgrpo import SGRPOTrainer, StochasticTokens, stochastic_token_mask
from .methods.sgrpo_config import SGRPOConfig
from .methods.shorter_better import (
    ShorterBetterReward,
    ShorterBetterTrainer,
    shorter_better_reward,
)
from .methods.shorter_better_config import ShorterBetterConfig
from .methods.siri import SIRISchedule, SIRITrainer, TruncationPenalty, siri_budget
from .methods.siri_config import SIRIConfig
from .methods.tspmo import PrefixMatching, TSPMOTrainer
from .methods.tspmo_config import TSPMOConfig
from .methods.tspmo_prefix_tree import Edge, PrefixTable, prefix_advantages
from .state.accuracies import AccuracyHistory
from .state.history import PromptHistory
from .trainer import ConciseGRPOTrainer
from .verification import math_accuracy_reward, verify_answers

__all__ = [
    "APITeacher",
    "AccuracyBand",
    "AccuracyHistory",
    "Advantage",
    "BatchWhitening",
    "BudgetSchedule",
    "CFTConfig",
    "CFTTrainer",
    "CompletionTokens",
    "Component",
    "ConciseGRPOConfig",
    "ConciseGRPOTrainer",
    "ConciseProgressCallback",
    "DataCollatorForCritique",
    "DataCollatorForREDI",
    "DifficultyWeighting",
    "Edge",
    "EfficientReasoningReward",
    "GRESO",
    "GRESOConfig",
    "GRESOTrainer",
    "GRPOLEADReward",
    "Generated",
    "GeneratedRollouts",
    "GroupReward",
    "HAPOConfig",
    "HAPOLengthReward",
    "HAPOTrainer",
    "HubFrontierCallback",
    "KimiLengthReward",
    "L1Reward",
    "LASERConfig",
    "LASERDConfig",
    "LASERDReward",
    "LASERDTrainer",
    "LASERReward",
    "LASERTrainer",
    "LocalRollouts",
    "LocalTeacher",
    "Paper",
    "PrefixMatching",
    "PrefixTable",
    "PromptHistory",
    "PromptSelector",
    "REDIConfig",
    "REDITrainer",
    "Rollout",
    "Rollouts",
    "Rows",
    "SGRPOConfig",
    "SGRPOTrainer",
    "SIRIConfig",
    "SIRISchedule",
    "SIRITrainer",
    "ShorterBetterConfig",
    "ShorterBetterReward",
    "ShorterBetterTrainer",
    "StochasticTokens",
    "TSPMOConfig",
    "TSPMOTrainer",
    "TeacherPrompt",
    "TokenCredit",
    "TrainingScript",
    "TruncationPenalty",
    "WatchSet",
    "accuracy_efficiency_score",
    "adaptive_target",
    "build_critiques",
    "build_redi_pairs",
    "critique_example",
    "critique_verdict",
    "demo",
    "difficulty_weight",
    "efficient_reasoning_reward",
    "greso_exploration",
    "greso_filter_probability",
    "greso_rollout_batch_size",
    "grpo_lead_reward",
    "hapo_length_reward",
    "hapo_repetition_penalty",
    "historical_variance",
    "is_repetitive",
    "kimi_length_reward",
    "l1_exact_reward",
    "l1_max_reward",
    "laser_base_score",
    "laser_reward",
    "load_problems",
    "math_accuracy_reward",
    "pass_at_k",
    "prefix_advantages",
    "prompt_key",
    "rank_by_historical_variance",
    "redi_loss",
    "repeat_example",
    "shorter_better_reward",
    "siri_budget",
    "stochastic_token_mask",
    "verify_answers",
    "whiten",
    "with_target_length",
]

__version__: str
