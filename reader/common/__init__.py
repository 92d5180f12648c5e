# SPDX-License-Identifier: Apache-2.0
"""What several readers share: video, features, windows, text, errors. Never imports Paddle."""
