# SPDX-License-Identifier: Apache-2.0
"""The one engine behind every system: configuration, training, evaluation, prediction, weights."""
