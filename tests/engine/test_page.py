# SPDX-License-Identifier: Apache-2.0
"""Pages of predictions: complete, escaped, self-contained, to scale."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from engine import page

EVIL = "<script>alert('x')</script>\"&"


class Tree(HTMLParser):
    """Elements as (tag, attributes) with their text; every tag must be closed in its place."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[dict] = []
        self.all: list[dict] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", "in": [e["tag"] for e in self.open], **dict(attrs)}
        self.all.append(element)
        if tag not in ("meta", "br"):
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.all.append({"tag": tag, "text": "", **dict(attrs)})

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def find(self, tag: str, css: str = "") -> list[dict]:
        return [
            e for e in self.all
            if e["tag"] == tag and set(css.split()) <= set((e.get("class") or "").split())
        ]  # fmt: skip


def example(**changes) -> dict:
    boxes = [
        {"box": [10, 20, 60, 80], "label": "cup", "score": 0.75, "kind": "predicted"},
        {"box": [12, 20, 64, 90], "label": "cup", "score": None, "kind": "truth"},
        {"box": [12, 20, 64, 90], "label": EVIL, "score": 0.5, "kind": "predicted"},
    ]
    return {
        "id": "7", "title": f"What is {EVIL} ?", "note": EVIL, "video": "clip",
        "choices": [
            {"text": f"choice {k}{EVIL}", "score": s, "predicted": k == 1, "correct": k == 1}
            for k, s in enumerate((0.125, 0.75, 0.125))
        ],
        "duration": 40.0,
        "moments": [
            {"label": "ground truth", "start": 8, "end": 18},
            {"label": "predicted", "start": 10.0, "end": 20.0},
        ],
        "curves": [
            {"label": "start", "times": [0, 10, 40], "values": [0, 0.5, 0.1]},
            {"label": "end", "times": np.arange(2.0), "values": np.ones(2, np.float32)},
        ],
        "frames": [{"index": 31, "time": 10.3, "boxes": boxes},
                   {"index": 91, "time": 30.3, "boxes": []}],
        "subtitles": [{"start": s, "text": f"at {s} {EVIL}"} for s in (1, 9, 12, 19, 25)],
        **changes,
    }  # fmt: skip


def written(folder: Path, *pages: dict, pictures=None) -> tuple[Tree, Tree, str]:
    """The first page, the index, and the first page's text."""
    index = page.write(folder, iter(pages), pictures, "MINE")
    tree = Tree(index.read_text())
    first = (index.parent / tree.find("a")[0]["href"]).read_text()
    return Tree(first), tree, first


def test_everything_is_shown_escaped_and_nothing_is_loaded(tmp_path):
    tree, index, text = written(tmp_path, example())
    for found in (text, (tmp_path / "index.html").read_text()):
        assert "<script" not in found and "http" not in found and "url(" not in found
        assert "alert" in found
    assert tree.find("h1")[0]["text"] == f"What is {EVIL} ?"
    links = {e[key] for e in tree.all for key in ("href", "src") if key in e}
    assert links == {"index.html"}
    assert {p.name for p in tmp_path.iterdir()} == {"7.html", "index.html"}
    row = index.find("tr")[1]["text"]
    assert "choice 1" in row and "right" in row and "10.0 s" in row and "20.0 s" in row
    assert "1 of 1 answered right" in index.find("p")[0]["text"]


def test_choices_with_shares_and_marks(tmp_path):
    tree, _, _ = written(tmp_path, example())
    rows = [e for e in tree.find("li") if "choice" in e["text"]]
    assert [("chosen" in (e.get("class") or "")) for e in rows] == [False, True, False]
    assert "75.0 %" in rows[1]["text"] and "correct" in rows[1]["text"]
    assert [e["width"] for e in tree.find("rect", "value")] == ["12.50%", "75.00%", "12.50%"]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [((0.0, 1.0), [0, 1]), ((2.0, 2.0), [0.5, 0.5]), ((-1.0, 0.5), None),
     ((None, None), [None] * 2), ((1.0, float("nan")), [None] * 2)],
)  # fmt: skip
def test_shares(scores, expected):
    found = page._choices([{"text": "a", "score": s} for s in scores])
    shares = [c["share"] for c in found]
    if expected is None:  # a softmax
        expected = np.exp(scores) / np.exp(scores).sum()
    assert shares == pytest.approx(list(expected))
    assert [c["correct"] for c in found] == [None, None] and found[1]["letter"] == "B"


def test_time_line_curves_and_subtitles(tmp_path):
    tree, _, _ = written(tmp_path, example())
    bars = {
        e["class"]: (e["x"], e["width"]) for e in tree.find("rect") if "-bar" in e.get("class", "")
    }
    assert bars == {"predicted-bar": ("25.0%", "25.0%"), "truth-bar": ("20.0%", "25.0%")}
    points = [e["points"] for e in tree.find("polyline")]  # (0, 100) is the lower left corner
    assert points == ["0.0,100.0 250.0,50.0 1000.0,90.0", "0.0,0.0 25.0,0.0"]
    inside = [e["text"].split("at ")[1].split()[0] for e in tree.find("li", "inside")]
    assert inside == ["9", "12", "19"]  # the second is on screen until 12
    assert [e["x"] for e in tree.find("text") if e["text"].endswith(" s")][:3] == [
        "0.0%", "12.5%", "25.0%",
    ]  # fmt: skip


def test_boxes_at_scale_with_captions_apart(tmp_path):
    tree, _, _ = written(tmp_path, example())
    assert tree.find("image") == [] and len(tree.find("rect", "blank")) == 2
    views = [e["viewbox"] for e in tree.find("svg") if "svg" not in e["in"] and "viewbox" in e]
    assert views == ["0 0 640 360"] * 2
    boxes = {e["class"]: e for e in tree.find("rect", "box")}
    cup = next(e for e in tree.find("rect", "box predicted") if e["stroke"] == page._COLOURS[0])
    assert [float(cup[k]) for k in ("x", "y", "width", "height")] == [10, 20, 50, 60]
    assert set(boxes) == {"box predicted", "box truth"}
    assert "cup 0.75" in [e["text"] for e in tree.find("text")]
    captions = page._boxes(example()["frames"][0]["boxes"] * 3, (640, 360), {"cup": "", EVIL: ""})
    places = [c["caption"] for c in captions]
    for i, a in enumerate(places):
        for b in places[:i]:
            apart = abs(a["y"] - b["y"]) > 0.98 * a["height"]
            assert apart or a["x"] >= b["x"] + b["width"] or b["x"] >= a["x"] + a["width"]


def test_boxes_beyond_the_usual_size_widen_a_frame_without_picture(tmp_path):
    boxes = [{"box": [0, 0, 1280, 300], "label": "a", "score": None, "kind": "truth"}]
    tree, _, _ = written(tmp_path, example(frames=[{"index": 1, "time": 0.3, "boxes": boxes}]))
    assert "0 0 1280 360" in [e.get("viewbox") for e in tree.find("svg")]


def test_pictures_are_inlined_and_made_smaller(tmp_path):
    import base64

    import cv2

    asked = []

    def pictures(video, ids):
        asked.append((video, ids))
        picture = np.zeros((720, 1280, 3), np.uint8)
        picture[..., 0] = 200  # red
        return [picture, None]

    tree, _, _ = written(tmp_path, example(), pictures=pictures)
    assert asked == [("clip", [31, 91])]
    (image,) = tree.find("image")
    assert image["width"] == "1280" and len(tree.find("rect", "blank")) == 1
    data = base64.b64decode(image["href"].removeprefix("data:image/jpeg;base64,"))
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (270, 480, 3)
    np.testing.assert_allclose(decoded[100, 100], [0, 0, 200], atol=6)
    tree, _, _ = written(tmp_path, example(), pictures=lambda video, ids: None)
    assert len(tree.find("rect", "blank")) == 2


def test_only_id_and_title_are_needed(tmp_path):
    tree, index, _ = written(tmp_path, {"id": 3, "title": "alone"}, {"id": "4", "title": "b"})
    assert not tree.find("section") and "2 questions" in index.find("p")[0]["text"]
    tree, _, _ = written(
        tmp_path, {"id": "m", "title": "t", "moments": [{"label": "x", "start": 5, "end": 2}]}
    )
    assert len(tree.find("rect", "predicted-bar")) == 1


def test_an_empty_set(tmp_path):
    index = page.write(tmp_path, [])
    assert "0 questions" in index.read_text()


def test_file_names_are_safe_and_distinct(tmp_path):
    ids = ["../../etc/passwd", "index", "a b", "a/b", "A_B", "日本", "", "x" * 300, ".hidden"]
    index = page.write(tmp_path / "sub", [{"id": i, "title": "t"} for i in ids])
    files = [e["href"] for e in Tree(index.read_text()).find("a")]
    assert len({f.casefold() for f in files} | {"index.html"}) == len(ids) + 1
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,90}", f) for f in files)
    assert {p.name for p in index.parent.iterdir()} == {*files, "index.html"}


@pytest.mark.parametrize(
    ("time", "text"), [(0, "0.0 s"), (59.94, "59.9 s"), (59.99, "1:00.0"), (60, "1:00.0"),
                       (127.46, "2:07.5"), (3599.99, "60:00.0")],
)  # fmt: skip
def test_times_for_people(time, text):
    assert page._seconds(time) == text


def test_pages_without_frames_show_what_the_network_saw(tmp_path):
    asked = []

    def seen(video):
        asked.append(video)
        return np.zeros((20, 4, 6, 3), np.uint8)

    pages = [{"id": str(n), "title": "?", "video": "v"} for n in range(2)]
    with_frames = example() | {"id": "x"}
    page.write(tmp_path, [*pages, {"id": "y", "title": "?"}, with_frames], None, "M", seen)
    first, text_only, own = ((tmp_path / f"{n}.html").read_text() for n in ("0", "y", "x"))
    assert asked == ["v"]  # once for both pages
    assert first.count("<img src=\"data:image/jpeg") == 8
    assert "1 of 20" in first and "20 of 20" in first
    assert "network saw" not in text_only and "network saw" not in own
