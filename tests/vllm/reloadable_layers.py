# SPDX-License-Identifier: Apache-2.0
"""
vLLM plugin for the tests: linear layers on a CPU that take new weights.

By default, these layers pack their weights for oneDNN and drop the originals. Weights that training sends later are then
lost without an error. vLLM's own fallback, `torch.nn.functional.linear`, keeps the weights.
"""

from __future__ import annotations


def register() -> None:
    import torch
    import vllm.model_executor.layers.utils as layers

    layers.dispatch_cpu_unquantized_gemm = lambda layer, remove_weight: setattr(
        layer, "cpu_linear", torch.nn.functional.linear
    )
