# SPDX-License-Identifier: Apache-2.0
"""Records of a few numbers each, which are added up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .errors import DataError
from .records import Records, finite


class Sums(Records):
    """Numbers under the names ``keys`` of every record, as ``self["sums"]``.

    Args:
        strict: of ``Records``.
    """

    keys: tuple[str, ...] = ()

    def __init__(self, strict: bool = False):
        super().__init__(strict, sums=np.zeros(len(self.keys)))

    def update(self, records: Sequence[dict]) -> None:
        """Add records with ``id`` and ``keys``.

        Raises:
            DataError: a key is missing, or no finite number.
        """
        records, rows = self.known(records)
        try:
            sums = np.array([[r[key] for key in self.keys] for r in records], np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"records from {records[0]['id']}: expected numbers {', '.join(self.keys)}, found: "
                f"{error!r}"
            ) from None
        self.put(rows, sums=finite(sums.reshape(-1, len(self.keys)), records, "numbers"))
