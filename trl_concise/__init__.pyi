from . import demo
from .callbacks import ConciseProgressCallback
from .cli.script import TrainingScript
from .components import (
    Advantage,
    BudgetSchedule,
    Component,
    GroupFilter,
    GroupReward,
    PromptSelector,
    Rollout,
    TokenCredit,
)
from .config import ConciseGRPOConfig
from .data import APITeacher, LocalTeacher, build_critiques, build_redi_pairs, load_problems
from .evaluation.watch import WatchSet
from .hub.frontier import HubFrontierCallback
from .methods.cft import CFTTrainer
from .methods.cft_config import CFTConfig
from .methods.curriculum import AccuracyBand
from .methods.dler import BatchWhitening, DLERTrainer
from .methods.dler_config import DLERConfig
from .methods.dynamic_sampling import DynamicSampling
from .methods.efficient_reasoning import EfficientReasoningReward
from .methods.greso import GRESO, GRESOTrainer
from .methods.greso_config import GRESOConfig
from .methods.grpo_lead import DifficultyWeighting, GRPOLEADReward
from .methods.hapo import HAPOLengthReward, HAPOTrainer
from .methods.hapo_config import HAPOConfig
from .methods.kimi import KimiLengthReward
from .methods.l1 import L1Reward
from .methods.laser import LASERReward, LASERTrainer
from .methods.laser_config import LASERConfig
from .methods.laser_d import LASERDReward, LASERDTrainer
from .methods.laser_d_config import LASERDConfig
from .methods.redi import REDITrainer
from .methods.redi_config import REDIConfig
from .methods.sgrpo import SGRPOTrainer, StochasticTokens
from .methods.sgrpo_config import SGRPOConfig
from .methods.shorter_better import ShorterBetterReward, ShorterBetterTrainer
from .methods.shorter_better_config import ShorterBetterConfig
from .methods.siri import SIRISchedule, SIRITrainer, TruncationPenalty
from .methods.siri_config import SIRIConfig
from .methods.tspmo import PrefixMatching, TSPMOTrainer
from .methods.tspmo_config import TSPMOConfig
from .state.history import PromptHistory
from .trainer import ConciseGRPOTrainer
from .verification import math_accuracy_reward, verify_answers

__all__ = [
    "APITeacher",
    "AccuracyBand",
    "Advantage",
    "BatchWhitening",
    "BudgetSchedule",
    "CFTConfig",
    "CFTTrainer",
    "Component",
    "ConciseGRPOConfig",
    "ConciseGRPOTrainer",
    "ConciseProgressCallback",
    "DLERConfig",
    "DLERTrainer",
    "DifficultyWeighting",
    "DynamicSampling",
    "EfficientReasoningReward",
    "GRESO",
    "GRESOConfig",
    "GRESOTrainer",
    "GRPOLEADReward",
    "GroupFilter",
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
    "LocalTeacher",
    "PrefixMatching",
    "PromptHistory",
    "PromptSelector",
    "REDIConfig",
    "REDITrainer",
    "Rollout",
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
    "TokenCredit",
    "TrainingScript",
    "TruncationPenalty",
    "WatchSet",
    "build_critiques",
    "build_redi_pairs",
    "demo",
    "load_problems",
    "math_accuracy_reward",
    "verify_answers",
]

__version__: str
