# SPDX-License-Identifier: Apache-2.0
"""Predictions as web pages: a self-contained HTML file per question, and an index of them.

A page is a dict. Only ``id`` and ``title`` must be there; times are seconds, boxes pixels:

    id, title, note, video   text
    choices     [{text, score (None or any number), predicted, correct (where known)}]
    duration    of the video
    moments     [{label, start, end}]; the predicted one says "predicted" in its label or is first,
                the true one says "truth"
    curves      [{label, times, values}]
    frames      [{index, time, boxes: [{box [x1, y1, x2, y2], label, score or None,
                 kind "predicted" or "truth"}]}]
    subtitles   [{start, text}]

Everything in it is untrusted and escaped; the files have no scripts and load nothing.
"""

from __future__ import annotations

import base64
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import replace_text

Pictures = Callable[[str, list[int]], Sequence[np.ndarray | None] | None]
Seen = Callable[[str], Sequence[np.ndarray] | None]

_BLANK = (640, 360)  # size of a frame without picture, unless boxes reach beyond it
_PICTURE_WIDTH = 480
_QUALITY = 85
_SHOWN = 8  # frames of a video on a page without frames of its own
_COLOURS = ("#2563eb", "#c2410c", "#0b7a53", "#9333ea", "#be185d", "#0e7490", "#8a5a00", "#4d5663")
_TICKS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
_MOST_TICKS = 8
_CHART = (1000, 100)  # coordinates of a curve; the page stretches them
_TEMPLATES = Path(__file__).parent / "templates"


def write(
    folder: Path,
    pages: Iterable[dict],
    pictures: Pictures | None = None,
    name: str = "",
    seen: Seen | None = None,
) -> Path:
    """Write ``<id>.html`` of every page and ``index.html``; returns the latter's path.

    Args:
        folder: made when absent; files of an earlier call stay unless they are written again.
        pictures: called as pictures(video, [frame index, ...]) -> RGB arrays (H, W, 3) uint8 in the
            coordinates of the boxes; None, or None in place of one, where there is no picture.
        name: of the system.
        seen: called as seen(video) -> RGB arrays of what the network saw of it, in order, or None;
            shown on pages that have no ``frames``.
    """
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"seconds": _seconds, "tick": _tick}
    folder.mkdir(parents=True, exist_ok=True)
    template, taken, rows = environment.get_template("page.html.j2"), {"index"}, []
    look = lru_cache(maxsize=1)(seen or (lambda video: None))  # a video's pages follow one another
    for page in pages:
        view = _view(page, pictures) | {"seen": _seen(page, look)}
        file = f"{_file_name(view['id'], taken)}.html"
        replace_text(folder / file, template.render(view, name=name))
        kept = ("id", "title", "answer", "right", "moment", "bars")
        rows.append({key: view[key] for key in kept} | {"file": file})
    index = folder / "index.html"
    replace_text(index, environment.get_template("index.html.j2").render(rows=rows, name=name))
    return index


def _file_name(name: str, taken: set[str]) -> str:
    """A name that is safe on every file system and not ``taken`` yet, whatever the case."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:80].strip("._") or "page"
    unique, n = safe, 1
    while unique.casefold() in taken:
        n += 1
        unique = f"{safe}-{n}"
    taken.add(unique.casefold())
    return unique


def _view(page: dict, pictures: Pictures | None) -> dict[str, Any]:
    """Everything that the templates show of a page, laid out."""
    choices, moments = _choices(page.get("choices", ())), page.get("moments", ())
    moment = next((m for m in moments if _is_predicted(m)), moments[0] if moments else None)
    duration = _duration(page)
    chosen = next((c for c in choices if c["predicted"]), None)
    return {
        "id": str(page["id"]),
        "title": str(page["title"]),
        "about": list(dict.fromkeys(filter(None, (page.get("video"), page.get("note"))))),
        "choices": choices,
        "answer": chosen["text"] if chosen else None,
        "right": chosen["correct"] if chosen else None,
        "moment": moment,
        "bars": [_bar(m, moment, duration) for m in moments] if duration else [],
        "curves": _curves(page.get("curves", ()), duration),
        "ticks": _ticks(duration),
        "frames": _frames(page, pictures, moment),
        "kinds": {b["kind"] for frame in page.get("frames", ()) for b in frame["boxes"]},
        "subtitles": _subtitles(page.get("subtitles", ()), moment),
    }


def _is_predicted(moment: dict) -> bool:
    return "predict" in str(moment["label"]).casefold()


def _choices(choices: Sequence[dict]) -> list[dict[str, Any]]:
    """With ``share`` in 0…1: the scores themselves, or their softmax where they exceed that."""
    scores = [c.get("score") for c in choices]
    shares: list[Any] = [None] * len(scores)
    if scores and all(s is not None and math.isfinite(s) for s in scores):
        values = np.array(scores, np.float64)
        if values.min() < 0 or values.max() > 1:
            values = np.exp(values - values.max())
            values /= values.sum()
        shares = values.tolist()
    known = any("correct" in c for c in choices)
    return [
        {
            "letter": chr(ord("A") + k) if k < 26 else str(k + 1),
            "text": str(choice["text"]),
            "share": share,
            "predicted": bool(choice.get("predicted")),
            "correct": bool(choice.get("correct")) if known else None,
        }
        for k, (choice, share) in enumerate(zip(choices, shares, strict=True))
    ]


def _duration(page: dict) -> float:
    """Length of the time axis: the video's, or what is needed to show all there is."""
    times = [page.get("duration") or 0.0]
    times += [m["end"] for m in page.get("moments", ())]
    times += [t for curve in page.get("curves", ()) for t in curve["times"]]
    return max((float(t) for t in times if math.isfinite(t)), default=0.0)


def _percent(time: float, duration: float) -> float:
    return round(100 * min(max(time / duration, 0.0), 1.0), 3)


def _bar(moment: dict, chosen: dict, duration: float) -> dict[str, Any]:
    left, right = (_percent(moment[side], duration) for side in ("start", "end"))
    width = max(right - left, 0.4)  # a bar that can be seen
    truth = "truth" in str(moment["label"]).casefold()
    kind = "predicted" if moment is chosen else "truth" if truth else "other"
    return {**moment, "kind": kind, "x": min(left, 100 - width), "width": round(width, 3)}


def _curves(curves: Sequence[dict], duration: float) -> list[dict[str, Any]]:
    """Points of polylines in ``_CHART``, all curves on one scale from 0 (or their minimum)."""
    curves = [c for c in curves if len(c["values"]) and np.isfinite(c["values"]).all()]
    if not curves or not duration:
        return []
    values = [v for c in curves for v in c["values"]]
    low, high = min(0.0, *values), max(values)
    width, height = _CHART
    scale = height / ((high - low) or 1.0)
    return [
        {
            "label": curve["label"],
            "peak": max(curve["values"]),
            "points": " ".join(
                f"{width * min(max(t / duration, 0), 1):.1f},{height - scale * (v - low):.1f}"
                for t, v in zip(curve["times"], curve["values"], strict=True)
            ),
        }
        for curve in curves
    ]


def _ticks(duration: float) -> list[dict[str, Any]]:
    if not duration:
        return []
    step = next((s for s in _TICKS if duration / s <= _MOST_TICKS), duration)
    times = [k * step for k in range(int(duration / step) + 1)]
    return [{"time": time, "x": _percent(time, duration)} for time in times]


def _seconds(time: float) -> str:
    """Seconds for people: 7.5 s, 2:07.5."""
    tenths = round(time * 10)
    if tenths < 600:
        return f"{tenths / 10:.1f} s"
    return f"{tenths // 600}:{tenths % 600 / 10:04.1f}"


def _tick(time: float) -> str:
    """A round time on the axis: 5 s, 2:05."""
    return f"{time:g} s" if time < 60 else f"{int(time // 60)}:{int(time % 60):02d}"


def _subtitles(subtitles: Sequence[dict], moment: dict | None) -> list[dict[str, Any]]:
    """With ``inside``: is it on screen, until the next one, during the predicted moment?"""
    ends = [s["start"] for s in subtitles[1:]] + [math.inf]
    return [
        {
            **line,
            "inside": moment is not None
            and line["start"] < moment["end"]
            and end > moment["start"],
        }
        for line, end in zip(subtitles, ends, strict=False)
    ]


# ---- frames


def _frames(page: dict, pictures: Pictures | None, moment: dict | None) -> list[dict[str, Any]]:
    frames = page.get("frames", ())
    found = None
    if frames and pictures and page.get("video") is not None:
        found = pictures(page["video"], [frame["index"] for frame in frames])
    labels = dict.fromkeys(str(b["label"]) for frame in frames for b in frame["boxes"])
    colours = {label: _COLOURS[k % len(_COLOURS)] for k, label in enumerate(labels)}
    corners = [b["box"][2:] for frame in frames for b in frame["boxes"]]
    blank = tuple(np.max([_BLANK, *corners], 0).tolist())
    out = []
    for frame, picture in zip(frames, found or [None] * len(frames), strict=True):
        size = blank if picture is None else (picture.shape[1], picture.shape[0])
        out.append({
            "index": frame["index"],
            "time": frame["time"],
            "inside": moment is not None and moment["start"] <= frame["time"] <= moment["end"],
            "size": size,
            "picture": None if picture is None else _data_uri(picture),
            "boxes": _boxes(frame["boxes"], size, colours),
        })  # fmt: skip
    return out


def _seen(page: dict, look: Seen) -> list[dict[str, Any]]:
    """A few of the frames that the network saw, evenly chosen."""
    if page.get("frames") or page.get("video") is None:
        return []
    found = look(page["video"])
    if found is None:
        return []
    chosen = np.linspace(0, len(found) - 1, min(len(found), _SHOWN)).tolist()
    return [
        {"number": k + 1, "count": len(found), "picture": _data_uri(found[k])}
        for k in map(round, chosen)
    ]


def _data_uri(picture: np.ndarray) -> str:
    """An RGB array (H, W, 3) as JPEG."""
    import cv2

    height, width = picture.shape[:2]
    if width > _PICTURE_WIDTH:
        size = (_PICTURE_WIDTH, max(1, round(height * _PICTURE_WIDTH / width)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), options)
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def _boxes(boxes: Sequence[dict], size: tuple, colours: dict[str, str]) -> list[dict[str, Any]]:
    """Rectangles with captions that do not cover one another, in the frame's pixels."""
    height = max(size[0], size[1] * 16 / 9) * 0.052  # of a caption
    taken: list[tuple] = []
    out = []
    for box in sorted(boxes, key=lambda b: b["kind"] != "truth"):  # predicted ones on top
        x1, y1, x2, y2 = (float(v) for v in box["box"])
        score = box.get("score")
        text = str(box["label"]) if score is None else f"{box['label']} {score:.2f}"
        width = min(_text_width(text) * height * 0.7 + height * 0.6, size[0])
        x = min(max(x1, 0), size[0] - width)
        above = y1 - height if y1 >= height else y1
        y = _free_place(x, above if box["kind"] == "predicted" else y2, width, height, size, taken)
        out.append({
            "x": x1, "y": y1, "width": max(x2 - x1, 0), "height": max(y2 - y1, 0),
            "kind": box["kind"], "colour": colours[str(box["label"])],
            "caption": {"text": text, "x": x, "y": y, "width": width, "height": height},
        })  # fmt: skip
    return out


def _free_place(
    x: float, y: float, width: float, height: float, size: tuple, taken: list[tuple]
) -> float:
    """The first place from ``y`` down, then up, where a caption covers no other; else ``y``."""
    lowest = max(size[1] - height, 0)
    y = min(max(y, 0), lowest)
    beside = [b for a, b, w in taken if x < a + w and a < x + width]
    places = [*np.arange(y, lowest, height), *np.arange(y, 0, -height)]
    free = (p for p in places if all(abs(p - b) > 0.99 * height for b in beside))
    y = float(next(free, y))
    taken.append((x, y, width))
    return y


def _text_width(text: str) -> float:
    """Estimated width in font sizes."""
    return sum(1.0 if unicodedata.east_asian_width(c) in "WF" else 0.58 for c in text)
