from .infialign import domain_quotas, select_infialign
from .select2reason import DifficultyJudge, joint_rank, judged_difficulty, select_jointly
from .shape_of_thought import ThoughtSets, build_thought_sets, mean_nll
from .stat_sel import select_for_skills

__all__ = [
    "DifficultyJudge",
    "ThoughtSets",
    "build_thought_sets",
    "domain_quotas",
    "joint_rank",
    "judged_difficulty",
    "mean_nll",
    "select_for_skills",
    "select_infialign",
    "select_jointly",
]
