# SPDX-License-Identifier: Apache-2.0
"""Where the files of a moment localisation data set are: configured paths, file lists, lengths."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from .errors import DataError
from .moments import VideoInfo, read_stamp, read_video_info
from .queries import Wanted, read_filelist

_ROOT = Path(__file__).resolve().parents[2]

_MISSING = """{split} data not found: {path}
  from: data/dataset/tall/README.md has the links to the published features and sentence vectors of
        TACoS, and the way from raw videos (TACoS, Charades-STA, your own)
  to:   {windows} and {sentences} (sliding_clip_path and clip_sentvec of the configuration)
  meanwhile, the sample: bash run.sh train TALL ./configs/sample/tall.yaml"""


class Layout:
    """Paths of one split; none is touched before it is asked for.

    Args:
        split: for messages.
        windows: folder of window features.
        sentences: sentence file.
        lengths: video lengths; optional, also as a file.
        filelist: a folder with ``infer_feat/`` and ``infer_clip-sen.pkl``, which then replace the
            two paths, or a text file of ``<video>`` or ``<video><tab><sentence>`` lines.
    """

    def __init__(
        self,
        split: str,
        windows: str | None,
        sentences: str | None,
        lengths: str | None = None,
        filelist: str | None = None,
    ):
        self._split, self._lengths, self._filelist = split, lengths, filelist
        self._configured = (windows, sentences)

    @cached_property
    def _list(self) -> Path | None:
        if self._filelist is None:
            return None
        path = find(self._filelist)
        if not path.exists():
            raise DataError(
                f"file list {self._filelist} does not exist: expected a folder with infer_feat/ "
                "and infer_clip-sen.pkl, or a text file of videos"
            )
        return path

    @cached_property
    def paths(self) -> tuple[str | None, str | None]:
        """Folder of windows and sentence file, as written."""
        if self._list is not None:
            own = self._list / "infer_feat", self._list / "infer_clip-sen.pkl"
            if own[0].exists() and own[1].exists():
                return str(own[0]), str(own[1])
        return self._configured

    @property
    def windows(self) -> Path:
        """Folder of windows.

        Raises:
            DataError: it is absent; says where the data come from and where they go.
        """
        return self._existing(self.paths[0])

    @property
    def sentences(self) -> Path:
        """Sentence file; raises as ``windows``."""
        return self._existing(self.paths[1])

    def _existing(self, path: str | None) -> Path:
        if path and find(path).exists():
            return find(path)
        windows, sentences = self.paths
        found = path or "the configuration names no path"
        text = _MISSING.format(split=self._split, path=found, windows=windows, sentences=sentences)
        raise DataError(text)

    @property
    def identities(self) -> dict[str, dict | None]:
        """What made features and sentence vectors, as stamps beside their files tell."""
        roles = zip(("visual", "text"), self.paths, strict=True)
        return {role: read_stamp(find(p)).get("identity") if p else None for role, p in roles}

    @cached_property
    def wanted(self) -> list[Wanted] | None:
        """Lines of a text file list; None when there is no such list."""
        return read_filelist(self._list) if self._list and self._list.is_file() else None

    @property
    def list_name(self) -> str:
        """The file list, for messages."""
        return str(self._filelist)

    @cached_property
    def _info(self) -> dict[str, VideoInfo]:
        known = self._lengths and find(self._lengths).exists()
        return read_video_info(find(self._lengths)) if known else {}

    def facts(self, video: str) -> dict[str, float]:
        """``num_frames`` and ``fps`` of a video, where they are known."""
        info = self._info.get(video) or self._info.get(Path(video).stem)
        return {k: v for k, v in info._asdict().items() if v} if info else {}


def find(path: str | Path) -> Path:
    """``path`` as seen from the working directory or else from the toolkit's root."""
    return _ROOT / path if not Path(path).exists() and (_ROOT / path).exists() else Path(path)
