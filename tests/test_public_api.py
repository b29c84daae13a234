# SPDX-License-Identifier: Apache-2.0
"""The names that users import, and what others call by their signature."""

from __future__ import annotations

import importlib
import inspect
import pickle
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import trl_concise
from tests.tools import module_map, readme_table


ROOT = Path(__file__).parents[1]
SIGNATURES = {
    "hapo_length_reward": "(length, history, correct, *, shape='cosine', floor=-0.7, tolerance=0.1)",
    "verify_answers": "(golds, completions, *, timeout=5.0, guards=True, format='auto', final_form=False)",
    "math_accuracy_reward": "(completions=None, solution=None, answer=None, log_metric=None, *, prompts=None, "
    "completion_finished=None, trainer_state=None, format='auto', final_form=True, **kwargs)",
    "accuracy_efficiency_score": "(accuracy, tokens, base_accuracy, base_tokens, *, alpha=1.0, beta=3.0, gamma=5.0)",
    "pass_at_k": "(n, c, k)",
    "redi_loss": "(chosen_logps, chosen_lengths, rejected_logps, rejected_lengths, *, alpha=0.8)",
    "prompt_key": "(row)",
    "prefix_advantages": "(completions, rewards, masks=None, *, baseline='weighted')",
    "stochastic_token_mask": "(completion_mask, *, cutoff, max_tokens, probability, count_forced=True, cap='left', generator=None, "
    "uniforms=None)",
}


@pytest.mark.parametrize("name", trl_concise.__all__)
def test_every_name_is_there_and_documented(name):
    thing = getattr(trl_concise, name)
    assert inspect.getdoc(thing)
    assert not inspect.isclass(thing) or thing.__doc__ != thing.__mro__[1].__doc__


def test_names_are_sorted_and_nothing_else_is_public():
    assert trl_concise.__all__ == sorted(trl_concise.__all__)
    assert set(trl_concise.__all__) <= set(dir(trl_concise))
    assert trl_concise.__version__.count(".") == 2


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name):
    parameters = inspect.signature(getattr(trl_concise, name)).parameters.values()
    bare = inspect.Signature([p.replace(annotation=p.empty) for p in parameters])
    assert str(bare) == SIGNATURES[name]


def test_importing_the_package_imports_no_training_library():
    code = "import sys, trl_concise; print(sorted({'trl', 'torch', 'transformers', 'sympy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_components_can_be_pickled():
    part = trl_concise.HAPOLengthReward()
    part.history.update(["a"], [3], [1])
    assert pickle.loads(pickle.dumps(part)).history.shortest(["a"]).item() == 3


def test_names_of_version_0_1_0_still_work():
    names = (ROOT / "tests" / "names_0_1_0.txt").read_text(encoding="utf-8").split()
    assert not [name for name in names if not hasattr(trl_concise, name)]


@pytest.mark.parametrize(
    ("module", "names"),
    [("script", ["RunArguments", "TrainingScript", "parse_arguments"]), ("recipe", ["tell_input_errors"])],
)
def test_deprecated_modules_of_version_0_1_0_warn_and_work(module, names, monkeypatch):
    monkeypatch.delitem(sys.modules, f"trl_concise.{module}", raising=False)
    with pytest.warns(FutureWarning, match=f"trl_concise.{module} is deprecated"):
        old = importlib.import_module(f"trl_concise.{module}")
    assert all(hasattr(old, name) for name in names)


def test_the_version_is_the_newest_one_in_the_changelog_and_in_the_citation():
    sections = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sections[0] == "Unreleased" and all(
        re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", s) for s in sections[1:]
    )
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert sections[1].startswith(f"{version} - ")
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


# Methods that share a page and an example with others.
PAGES = dict.fromkeys(["dler", "efficient_reasoning", "grpo_lead", "kimi", "l1"], "length_rewards")


PARTS_OF_A_METHOD = {"laser_d_monitor", "tspmo_prefix_tree", "tspmo_replay"}
METHODS = [
    path
    for path in sorted((ROOT / "trl_concise" / "methods").glob("[!_]*.py"))
    if "_config" not in path.stem and path.stem not in PARTS_OF_A_METHOD
]


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_every_method_has_its_page_test_example_and_changelog_entry(path):
    example = PAGES.get(path.stem, path.stem)
    page = {"laser_d": "laser"}.get(path.stem, example)
    for file in [f"docs/{page}.md", f"tests/methods/test_{path.stem}.py", f"examples/{example}.py"]:
        assert (ROOT / file).is_file(), file
    letters = "".join(filter(str.isalnum, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").upper()))
    assert path.stem.replace("_", "").upper() in letters  # grpo_lead is GRPOLEADReward there


def test_the_readme_has_the_table_that_the_exported_names_make():
    readme = readme_table.README.read_text(encoding="utf-8")
    assert readme == readme_table.rewritten(readme), "python -m tests.tools.readme_table"
    assert {path.stem for path in METHODS} == {module for row in readme_table.ROWS for module in row}


def test_every_name_is_in_the_api_reference():
    reference = runpy.run_path(str(ROOT / "docs" / "mkdocs_hooks.py"))["api_reference"]()
    assert (
        sorted(re.findall(r"^::: trl_concise\.(?:[\w.]+\.)?(\w+)$", reference, flags=re.MULTILINE))
        == trl_concise.__all__
    )


def test_the_module_map_has_every_module_and_nothing_else():
    page = module_map.PAGE.read_text(encoding="utf-8")
    assert page == module_map.rewritten(page), "python -m tests.tools.module_map"
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "trl_concise").rglob("*.py")}
    listed = set()
    for folder, rows in re.findall(r"^\*\*`(trl_concise/.*?)`\*\*\n\n((?:\|.*\n)+)", page, flags=re.MULTILINE):
        listed |= {folder + name for name in re.findall(r"^\| `([\w.]+)` \| \S", rows, flags=re.MULTILINE)}
    assert listed == modules


# Imports this package again without what Windows lacks; other packages know Windows. `judge_process` is a script for systems
# that can fork, which `judge` starts.
AS_ON_WINDOWS = """
import importlib, os, pkgutil, signal, sys
import trl_concise

def import_everything():
    for module in pkgutil.walk_packages(trl_concise.__path__, "trl_concise."):
        if module.name.rpartition(".")[2] not in ("__main__", "judge_process"):
            importlib.import_module(module.name)

import_everything()
ours = [name for name in sys.modules if name.split(".")[0] == "trl_concise"]
for name in ours:
    del sys.modules[name]
for name in ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog"):
    sys.modules[name] = None
for module in (os, signal):
    for name in ("fork", "register_at_fork", "sched_getaffinity", "getuid", "killpg", "SIGKILL", "SIGALRM", "setitimer"):
        vars(module).pop(name, None)
import trl_concise
import_everything()
for name in trl_concise.__all__:
    getattr(trl_concise, name)
print(trl_concise.verify_answers(["7"], [r"\\boxed{7}"]))
try:
    trl_concise.verify_answers([r"\\sin(x)^2"], [r"\\boxed{1 - \\cos(x)^2}"])
except RuntimeError as error:
    print(error)
"""


def test_everything_can_be_imported_on_windows():
    command = [sys.executable, "-c", AS_ON_WINDOWS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    verdict, error = done.stdout.splitlines()[-2:]
    assert verdict == "[True]"  # equal as text: no process is needed
    assert "has no fork(), with which the time for checking an answer is limited. Use Linux, macOS or WSL" in error
