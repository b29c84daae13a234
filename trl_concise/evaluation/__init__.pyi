from .completions import Completion, has_no_answer, read_completions, summarize
from .evaluator import evaluate
from .filter import filter_problems
from .metrics import accuracy_efficiency_score, accuracy_interval, bootstrap_interval, on_frontier, pass_at_k
from .plots import FrontierPoint, plot_curves, plot_frontier
from .selection import best_of_n
from .sets import load_problem_sets
from .summaries import read_summary
from .thinking_budget import ThinkingBudgets
from .voting import Vote

__all__ = [
    "Completion",
    "FrontierPoint",
    "ThinkingBudgets",
    "Vote",
    "accuracy_efficiency_score",
    "accuracy_interval",
    "best_of_n",
    "bootstrap_interval",
    "evaluate",
    "filter_problems",
    "has_no_answer",
    "load_problem_sets",
    "on_frontier",
    "pass_at_k",
    "plot_curves",
    "plot_frontier",
    "read_completions",
    "read_summary",
    "summarize",
]
