# SPDX-License-Identifier: Apache-2.0
"""The `args` of a drop-in trainer."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from huggingface_hub.utils import validate_repo_id
from trl import DPOConfig, SFTConfig

import trl_concise
from trl_concise.config import default_output_dir, own_config


@dataclass
class OurConfig(DPOConfig):
    strength: float = 0.5
    use_cpu: bool = True  # a config without arguments asks for a GPU


class OurTrainer:
    _name = "Ours"


def own(args, model="org/base/"):
    return own_config(OurConfig, args, trainer=OurTrainer, parent=DPOConfig, model=model)


DROP_INS = {
    name.removesuffix("Trainer"): getattr(trl_concise, name)
    for name in trl_concise.__all__
    if name.endswith("Trainer") and hasattr(getattr(trl_concise, name), "config_class")
}
NAMES = ["org/base/", "/models/My model (v2)", "C:\\models\\qwen", "./a--b..c", "模型", "", "/", "-x-.git", "x" * 200]


@pytest.mark.parametrize("name", DROP_INS)
def test_the_default_output_folder_is_a_name_on_the_hub(name):
    for model in NAMES:
        folder = default_output_dir(model, DROP_INS[name])
        validate_repo_id(folder)
        validate_repo_id(f"user/{folder}")
        assert folder.endswith(f"-{name}")


def test_none_is_named_after_the_model(tmp_path, monkeypatch):
    config = own(None)
    assert type(config) is OurConfig and config.output_dir == "base-Our"
    assert default_output_dir("org/base", trl_concise.SGRPOTrainer) == "base-SGRPO"
    assert default_output_dir("C:\\models\\qwen", OurTrainer) == "qwen-Our"
    assert default_output_dir("/models/My model (v2)", OurTrainer) == "My-model-v2-Our"
    (tmp_path / "tuned").mkdir()
    monkeypatch.chdir(tmp_path / "tuned")
    assert default_output_dir(".", OurTrainer) == "tuned-Our"


def test_a_plain_config_keeps_its_settings_and_gets_the_new_ones(tmp_path):
    plain = DPOConfig(str(tmp_path), use_cpu=True, beta=0.3)
    config = own(plain)
    assert type(config) is OurConfig and (config.beta, config.strength) == (0.3, 0.5)
    assert not hasattr(plain, "strength")


def test_nothing_mutable_is_shared(tmp_path):
    given = OurConfig(str(tmp_path), model_init_kwargs={"dtype": "float32"}, strength=0.1)
    config = own(given)
    config.model_init_kwargs["dtype"] = "bfloat16"
    config.accelerator_config.dispatch_batches = False
    assert config.strength == 0.1 and config is not given
    assert given.model_init_kwargs == {"dtype": "float32"} and given.accelerator_config.dispatch_batches is None


def test_another_methods_config_is_refused(tmp_path):
    with pytest.raises(TypeError, match="OurTrainer takes a OurConfig or a DPOConfig, got a SFTConfig"):
        own(SFTConfig(str(tmp_path), use_cpu=True))
