from .carry_over import carry_over_model
from .concise import concise_model, trace_dataset
from .control import TokenBudget, train_control
from .critic import ArithmeticCritic
from .critiques import generate_critiques
from .formulas import FORMULA_LEVELS, FormulaReport, formula_dataset, formula_model
from .modes import two_mode_model
from .problems import OPERATIONS, generate_problems
from .process import process_model, process_tasks, worked_solutions
from .report import LIMITS, Report
from .settings import EVALUATION, SETTINGS, evaluate_model, model_path, problem_dataset, train_dataset
from .teacher import sample_traces, teacher_dataset
from .thinker import thinker_dataset, thinker_model
from .tool_report import ToolReport
from .tools import calculate, tool_dataset, tool_model
from .verifier import verifier_model

__all__ = [
    "EVALUATION",
    "FORMULA_LEVELS",
    "LIMITS",
    "OPERATIONS",
    "SETTINGS",
    "ArithmeticCritic",
    "FormulaReport",
    "Report",
    "TokenBudget",
    "ToolReport",
    "calculate",
    "carry_over_model",
    "concise_model",
    "evaluate_model",
    "formula_dataset",
    "formula_model",
    "generate_critiques",
    "generate_problems",
    "model_path",
    "problem_dataset",
    "process_model",
    "process_tasks",
    "sample_traces",
    "thinker_dataset",
    "thinker_model",
    "teacher_dataset",
    "tool_dataset",
    "tool_model",
    "trace_dataset",
    "train_control",
    "train_dataset",
    "two_mode_model",
    "verifier_model",
    "worked_solutions",
]
