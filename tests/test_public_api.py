# SPDX-License-Identifier: Apache-2.0
"""The names that users import, and what others call by their signature."""

from __future__ import annotations

import inspect
import json
import pickle
import re
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import trl_concise
from tests.tools import method_table, module_map
from trl_concise.cli import main
from trl_concise.components.slots import SLOTS
from trl_concise.methods.experimental_table import EXPERIMENTAL_METHODS
from trl_concise.methods.table import METHODS, PROVENANCE


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


def public(name: str):
    """Return an exported name, or one that its module exports."""
    module = f"trl_concise.{trl_concise._MODULES[name]}" if name in trl_concise._MODULES else "trl_concise"
    return getattr(import_module(module), name)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name):
    parameters = inspect.signature(public(name)).parameters.values()
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


@pytest.mark.filterwarnings("ignore:Import:FutureWarning")
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
        old = import_module(f"trl_concise.{module}")
    assert all(hasattr(old, name) for name in names)


def test_the_version_is_the_newest_one_in_the_changelog_and_in_the_citation():
    sections = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sections[0] == "Unreleased" and all(
        re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", s) for s in sections[1:]
    )
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert sections[1].startswith(f"{version} - ")
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


# Methods that share an example with others, and those of them that share its page too.
PAGES = {
    **dict.fromkeys(["efficient_reasoning", "grpo_lead", "kimi", "l1"], "length_rewards"),
    "layer_realignment": "realignment",
}
EXAMPLES = PAGES | dict.fromkeys(["ddca", "drpo", "gated_brevity", "text_rewards"], "length_rewards")


PARTS_OF_A_METHOD = {
    *("laser_d_monitor", "redi_rows", "staged_budget", "thinking_modes", "tspmo_prefix_tree", "tspmo_replay"),
    *(
        "capo_critiques",
        "experimental_table",
        "length_table",
        "offline_table",
        "method",
        "rlpr_answer",
        "table",
        "tdrm_reward",
        "realignment_models",
    ),
    "thinker_generation",
}
METHOD_FILES = [
    path
    for path in sorted((ROOT / "trl_concise" / "methods").glob("[!_]*.py"))
    if "_config" not in path.stem and path.stem not in PARTS_OF_A_METHOD
]


@pytest.mark.parametrize("path", METHOD_FILES, ids=lambda path: path.stem)
def test_every_method_has_its_page_test_example_and_changelog_entry(path):
    example = EXAMPLES.get(path.stem, path.stem)
    page = {**PAGES, "laser_d": "laser"}.get(path.stem, path.stem)
    for file in [f"docs/{page}.md", f"tests/methods/test_{path.stem}.py", f"examples/{example}.py"]:
        assert (ROOT / file).is_file(), file
    letters = "".join(filter(str.isalnum, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").upper()))
    assert path.stem.replace("_", "").upper() in letters  # grpo_lead is GRPOLEADReward there


def test_the_table_of_methods_is_in_the_readme_and_in_the_docs():
    readme = method_table.README.read_text(encoding="utf-8")
    assert readme == method_table.rewritten(readme), "python -m tests.tools.method_table"
    assert method_table.PAGE.read_text(encoding="utf-8") == method_table.page()
    assert {path.stem for path in METHOD_FILES} == {m.module for m in METHODS if m.package == "methods"}


EXPERIMENTAL_FOLDER = ROOT / "trl_concise" / "experimental"


@pytest.mark.parametrize("method", EXPERIMENTAL_METHODS, ids=lambda method: method.module)
def test_every_experimental_system_has_its_page_test_example_and_changelog_entry(method):
    assert method.package == "experimental" and method.evidence is not None
    name = method.page.removeprefix("experimental/")
    for file in [f"docs/experimental/{name}.md", f"tests/experimental/test_{name}.py", f"examples/{name}.py"]:
        assert (ROOT / file).is_file(), file
    assert f"`examples/{name}.py`" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_nothing_else_imports_the_experimental_systems():
    for path in (ROOT / "trl_concise").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        imported = re.search(r"(from|import) (\.+|trl_concise\.)experimental\b", text)
        assert EXPERIMENTAL_FOLDER in path.parents or not imported, path


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.module)
def test_a_row_of_the_table_of_methods_is_true(method):
    module = import_module(f"trl_concise.{method.package}.{method.module}")
    slots = {"reward_funcs": trl_concise.GroupReward, **{name: slot.kind for name, slot in SLOTS.items()}}
    components = [getattr(module, name) for name in method.components]
    for component in filter(inspect.isclass, components):
        fits = not set(method.slots) & set(slots) or any(
            issubclass(component, slots[slot]) for slot in method.slots if slot in slots
        )
        assert fits or (
            "reward_funcs" in method.slots and "__call__" in vars(component)
        )  # an ordinary reward function
    trainer = getattr(module, method.trainer) if method.trainer is not None else None
    papers = {component.paper.id for component in components if getattr(component, "paper", None) is not None}
    papers |= {trainer._paper["id"]} if trainer is not None else set()
    assert papers <= {method.paper}
    reconstructed = [c.paper.reconstructed for c in components if getattr(c, "paper", None) is not None]
    assert method.provenance in PROVENANCE and (not any(reconstructed) or method.provenance == "reconstructed")
    if method.evidence is not None:
        page, section = method.evidence.split("#")
        headings = re.findall(r"^###? (.+)$", (ROOT / "docs" / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert section in [heading.lower().replace(" ", "-") for heading in headings]


def test_the_methods_command_prints_every_method(capsys):
    assert main(["methods"]) == 0
    printed = capsys.readouterr().out
    assert all(method.name in printed for method in METHODS)
    assert main(["methods", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == [method.name for method in METHODS]


def test_names_that_have_moved_name_their_module():
    for name, module in trl_concise._MODULES.items():
        assert name not in trl_concise.__all__
        with pytest.warns(FutureWarning, match=rf"Import {name} from trl_concise\.{module}, not from trl_concise"):
            assert getattr(trl_concise, name) is getattr(import_module(f"trl_concise.{module}"), name)


def test_every_name_is_in_the_api_reference():
    reference = runpy.run_path(str(ROOT / "docs" / "mkdocs_hooks.py"))["api_reference"]()
    assert sorted(re.findall(r"^::: trl_concise\.(?:[\w.]+\.)?(\w+)$", reference, flags=re.MULTILINE)) == sorted(
        [*trl_concise.__all__, *trl_concise._MODULES]
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


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a clone with its git data")
def test_a_clone_contains_no_local_files():
    """A link to a folder of one machine, for example, keeps `make test-real` from writing the model there."""

    def tracked(*options: str) -> list[str]:
        return subprocess.run(
            ["git", "ls-files", *options], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.splitlines()

    assert tracked("--cached", "--ignored", "--exclude-standard") == []
    assert [line for line in tracked("--stage") if line.startswith("120000")] == []  # symbolic links


def test_everything_can_be_imported_on_windows():
    command = [sys.executable, "-c", AS_ON_WINDOWS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    verdict, error = done.stdout.splitlines()[-2:]
    assert verdict == "[True]"  # equal as text: no process is needed
    assert "has no fork(), with which the time for checking an answer is limited. Use Linux, macOS or WSL" in error
