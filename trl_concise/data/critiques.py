# SPDX-License-Identifier: Apache-2.0
"""
The texts of critique fine-tuning: prompts of the student, prompts of the teacher, and reading its verdict.

The methods are CFT (https://huggingface.co/papers/2501.17703) and CFT on one problem (https://huggingface.co/papers/2506.03295).
"""

from __future__ import annotations

from dataclasses import dataclass


_INSTRUCTION = "Please critique whether the following solution to the question is correct."

# What the user says to the student. "cft" is read in the first author's public working scripts; its three newlines come from
# LLaMA-Factory's joining of two fields. "cft_released" has the blank line of the released 50K set. "one_shot" is the format
# of 2506.03295, its whitespace a reconstruction.
CRITIQUE_TEMPLATES = {
    "cft": _INSTRUCTION + "\n\n\nQuestion:\n{question}\nSolution:\n{solution}\n",
    "cft_released": _INSTRUCTION + "\n\n\nQuestion:\n{question}\n\nSolution:\n{solution}\n\n",
    "one_shot": _INSTRUCTION + "\n\nQuestion:\n{question}\nSolution:\n{solution}",
}


def critique_example(
    question: str, solution: str, critique: str, *, template: str = "cft", system_prompt: str | None = None
) -> dict[str, list[dict[str, str]]]:
    r"""
    Write one critique as a prompt and a completion, the texts exactly as the authors train on them.

    Args:
        question (`str`): $x$, the question.
        solution (`str`): $y$, a solution, right or wrong.
        critique (`str`): $c$, its critique. `"Critique:\n"` is put before it unless it begins with `"Critique:"`.
        template (`str`, *optional*, defaults to `"cft"`):
            `"cft"`, `"cft_released"` (blank lines around the solution, as in the released 50K set) or `"one_shot"`.
        system_prompt (`str`, *optional*):
            System message. If `None`, the chat template's default applies, if it has one.

    Returns:
        `dict[str, list[dict[str, str]]]`: `prompt` and `completion`, lists of messages.

    Raises:
        `ValueError`: If the template is unknown or one of the texts is missing or empty.

    Examples:
        >>> critique = "1+1=2, not 3.\n\nConclusion: wrong [END]"
        >>> critique_example("1+1=?", "3", critique)["completion"][0]["content"]
        'Critique:\n1+1=2, not 3.\n\nConclusion: wrong [END]'
    """
    if template not in CRITIQUE_TEMPLATES:
        raise ValueError(f"template must be one of {list(CRITIQUE_TEMPLATES)}, got {template!r}.")
    for name, text in (("question", question), ("solution", solution), ("critique", critique)):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"The {name} must be a text that is not empty, got {text!r} (question: {question!r}).")
    prompt = [{"role": "user", "content": CRITIQUE_TEMPLATES[template].format(question=question, solution=solution)}]
    if system_prompt is not None:
        prompt.insert(0, {"role": "system", "content": system_prompt})
    if not critique.startswith("Critique:"):
        critique = "Critique:\n" + critique
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": critique}]}


def critique_verdict(text: str, *, default: bool | None = None) -> bool | None:
    """
    Read the verdict of a critique.

    What follows the last `Conclusion` counts, and the whole text where there is none. "wrong" or "incorrect" in it means
    wrong; else "right" or "correct" means right, whatever precedes it: "not right" counts as right, as it does for the
    authors.

    Args:
        text (`str`): The critique.
        default (`bool`, *optional*): What a critique without a verdict counts as. `False` is the authors' rule.

    Returns:
        `bool` or `None`: `True` for right, `False` for wrong, `default` without a verdict.

    Examples:
        >>> critique_verdict("Wrong at first. Conclusion: right [END]")
        True
        >>> critique_verdict("**Critique Conclusion: Incorrect**")
        False
    """
    conclusion = text.rpartition("Conclusion")[2].lower()
    if "wrong" in conclusion or "incorrect" in conclusion:
        return False
    if "right" in conclusion or "correct" in conclusion:
        return True
    return default


@dataclass(frozen=True)
class TeacherPrompt:
    r"""
    What a teacher is asked.

    Args:
        user (`str`): User message, a format string with `{question}` and `{solution}`; other braces are doubled.
        system (`str`, *optional*): System message, as it is.
        asks_for_answer (`bool`, *optional*, defaults to `False`):
            Whether the critique of a wrong solution is to give the right answer in a `\boxed{}`, which is then checked too.
    """

    user: str
    system: str | None = None
    asks_for_answer: bool = False

    def messages(self, question: str, solution: str) -> list[dict[str, str]]:
        """Return the conversation that asks for a critique."""
        system = [{"role": "system", "content": self.system}] if self.system is not None else []
        user = self.user.format(question=question, solution=solution)
        return [*system, {"role": "user", "content": user}]


_STEPS = """\
Analyze if the student's solution to the given question is correct. Follow these steps:
1. Identify the key mathematical concepts and correct approach.
2. Check each step of the student's solution.
3. If incorrect, point out errors and provide the correct solution, putting your final answer within \\boxed{{}}.
Conclude with "Conclusion: right/wrong [END]"

Question:
{question}

Student's Solution:
{solution}"""

# The authors' own words: "cft" from TIGER-AI-Lab/CritiqueFineTuning @ 44b83b8, tools/self_construct_critique_data; the
# other two from TIGER-AI-Lab/One-Shot-CFT @ 296d620, prompts/generate_teacher_critique.py, for math and for logic.
TEACHER_PROMPTS = {
    "cft": TeacherPrompt(
        system="You are a science expert. A student is trying to solve a question, please explain briefly whether his "
        "solution is correct or not. Finally, conclude your judgement with 'Conclusion: right/wrong [END]'.",
        user="\nQuestion: {question}\n\nSolution: {solution}\n",
    ),
    "one_shot": TeacherPrompt(user="You are a mathematics expert. " + _STEPS, asks_for_answer=True),
    "one_shot_logic": TeacherPrompt(user=_STEPS, asks_for_answer=True),
}
