# SPDX-License-Identifier: Apache-2.0
"""The generation batch, from its completions to the loss."""
