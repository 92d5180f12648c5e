# SPDX-License-Identifier: Apache-2.0
"""Building blocks that two or more systems share, once each."""
