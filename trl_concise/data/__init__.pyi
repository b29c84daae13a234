from .critique_builder import CritiqueReport, build_critiques
from .critiques import TeacherPrompt, critique_example, critique_verdict
from .effort import with_effort
from .problems import load_problems
from .redi import build_redi_pairs
from .saturn import saturn_dataset
from .steps import build_steps, split_steps
from .teachers import APITeacher, LocalTeacher

__all__ = [
    "APITeacher",
    "CritiqueReport",
    "LocalTeacher",
    "TeacherPrompt",
    "build_critiques",
    "build_redi_pairs",
    "build_steps",
    "critique_example",
    "critique_verdict",
    "load_problems",
    "saturn_dataset",
    "split_steps",
    "with_effort",
]
