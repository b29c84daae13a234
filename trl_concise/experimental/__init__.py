# SPDX-License-Identifier: Apache-2.0
"""
Systems around the trainer: two models, guides, sparse autoencoders, code execution, learned data mixtures.

Their interfaces may change in any release, without a deprecation. Import them from their modules, such as
`trl_concise.experimental.long_short`; nothing else in the package imports them.
"""
