# SPDX-License-Identifier: Apache-2.0
"""
Compare training with wrong rewards with GRPO: same model, same problems, same number of generated tokens.

    python benchmarks/noisy_rewards.py --seeds 0

The runs, their options, files and tables are those of `benchmarks/methods.py`.
"""

from __future__ import annotations

import methods

from trl_concise.methods.noisy_rewards import NoisyReward, reasoning_pattern_reward


def noise(probability: float) -> dict:
    return {"rewards": lambda: [NoisyReward(probability)], "config": {"reward_weights": [0.0, 1.0]}}


RUNS = {
    "GRPO": {},
    "20 % inverted": noise(0.2),
    "40 % inverted": noise(0.4),
    "50 % inverted": noise(0.5),
    "Pattern reward": {"rewards": lambda: [reasoning_pattern_reward], "config": {"reward_weights": [0.0, 1.0]}},
}

if __name__ == "__main__":
    methods.METHODS.clear()
    methods.METHODS.update(RUNS)
    methods.main()
