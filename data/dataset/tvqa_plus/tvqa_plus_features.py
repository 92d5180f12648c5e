# SPDX-License-Identifier: Apache-2.0
"""Makes TVQA+'s feature package out of raw text, videos and boxes.

Words of questions, answers and subtitles become rows of two HDF5 files, regions rows of a third,
under the published names; extractors are those of a configuration. `identity.json` says what made
them. A file that is complete and of the same inputs and extractors is left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tvqa_plus_clips import Clips, fit_pca

from engine.errors import ConfigError
from reader.common.errors import DataError
from reader.common.moments import write_json
from reader.common.tvqa_plus import (
    IDENTITY,
    PUBLISHED,
    Question,
    parse_subtitles,
    read_json,
    read_questions,
    read_words,
    stream_json,
)

FIRST_WORDS = ("<unk>", "<pad>", "<eos>")
SENTENCES_PER_STEP = 512
METHODS = {"text": "words", "regions": "features_of"}  # that extractors of these roles have
FIT_CLIPS, FIT_INTERVAL = 200, 6  # a PCA is fitted on every 6th frame of so many clips

Blocks = Iterable[tuple[str, np.ndarray]]  # (name, rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    add = parser.add_argument
    add("--qa", type=Path, nargs="+", required=True, metavar="FILE",
        help="question lists, the training questions first")  # fmt: skip
    add("--subtitles", type=Path, metavar="FILE", help="subtitles of all clips")
    add("--videos", type=Path, metavar="DIR",
        help="<clip>.mp4 (or another video), or <clip>/00001.jpg ... at 3 per second")  # fmt: skip
    add("--regions", type=Path, metavar="FILE", help="boxes of all clips, at 3 frames per second")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the package")
    add("--config", required=True, help="YAML file with DATASET.extractors text and regions")
    add("-o", dest="overrides", action="append", default=[], metavar="SECTION.key=value",
        help="change the configuration")  # fmt: skip
    add("--word2idx", type=Path, metavar="FILE", help="word ids, instead of the training words'")
    add("--pca", type=int, metavar="N",
        help="fit a PCA of N numbers on the first --qa file's clips when the file that "
        "DATASET.extractors.regions.pca names is missing")  # fmt: skip
    add("--size", type=_size, metavar="WxH",
        help="of the pictures that the boxes belong to, such as 640x360")  # fmt: skip


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected a size such as 640x360, found {text}")
    return int(match[1]), int(match[2])


def run(args: argparse.Namespace) -> None:
    """Make what the arguments allow: words, subtitles with --subtitles, regions with --videos."""
    from filelock import FileLock, Timeout

    from engine import config, log, runtime

    log.setup()
    if (args.videos is None) != (args.regions is None):
        raise ConfigError("expected both or neither of --videos and --regions, found one")
    for path in (args.subtitles, args.videos, args.regions):
        if path is not None and not path.exists():
            raise DataError(f"{path}: expected a file or folder, found none")
    groups = [read_questions(path) for path in args.qa]
    questions = _merge(groups)
    training = list(dict.fromkeys(question.video for question in groups[0]))
    roles = ("text", "regions") if args.videos else ("text",)
    options = config.load(args.config, args.overrides)["DATASET"]["extractors"]
    for role in roles:
        if role not in options:
            raise ConfigError(f"{args.config}: DATASET.extractors: expected {role}, found none")
    runtime.prepare()
    runtime.import_paddle()
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        with FileLock(args.out / ".lock", timeout=0):
            _make_words(args, questions, training, options["text"])
            if args.videos:
                _make_regions(args, questions, training, options["regions"])
    except Timeout:
        raise DataError(f"{args.out}: another process makes features in this folder") from None
    except OSError as error:
        raise DataError(f"{args.out}: cannot write: {error.strerror or error}") from None


def say(line: str) -> None:
    """One line for people."""
    print(line, flush=True)


def _merge(groups: Sequence[list[Question]]) -> list[Question]:
    """All questions; those that several files have, such as a test split without answers, once."""
    found: dict[int, Question] = {}
    for question in (question for group in groups for question in group):
        known = found.setdefault(question.qid, question)
        if (known.video, known.text, known.choices) != (
            question.video, question.text, question.choices
        ):  # fmt: skip
            raise DataError(f"--qa: expected one question {question.qid}, found two different ones")
    return list(found.values())


# words


def _make_words(
    args: argparse.Namespace,
    questions: list[Question],
    training: list[str],
    options: dict[str, Any],
) -> None:
    """Word features of questions, answers and subtitles, and `word2idx.json`."""
    sentences = {}
    for question in questions:
        sentences[f"{question.qid}_q"] = [question.text.split()]
        for k, choice in enumerate(question.choices):
            sentences[f"{question.qid}_a{k}"] = [choice.split()]
    said = _said(args.subtitles, questions) if args.subtitles else {}
    extractor = _build("text", options)
    for option, texts in (("qa_bert", sentences), ("sub_bert", said)):
        stamp = _stamp(extractor.identity, texts)
        if texts and not _is_done(args.out / PUBLISHED[option], stamp):
            _write_rows(args.out / PUBLISHED[option], stamp, encode(texts, extractor))
    _sign(args.out, "text", extractor.identity)
    _make_vocabulary(args, questions, {clip: said.get(clip, []) for clip in training})


def _said(path: Path, questions: list[Question]) -> dict[str, list[list[str]]]:
    """Words of every sentence by clip."""
    entries, said = read_json(path), {}
    for question in questions:
        clip = question.video
        if clip not in entries:
            raise DataError(f"{path}: expected subtitles of {clip}, found none")
        if clip not in said:
            subtitles = parse_subtitles(f"{path}: {clip}", entries[clip])
            said[clip] = [sentence.split() for sentence in subtitles.sentences]
    return said


def encode(texts: dict[str, list[list[str]]], extractor: Any) -> Iterator[tuple[str, np.ndarray]]:
    """(name, one row per word) of texts, which are lists of sentences, which are lists of words."""
    from tools.extract import Progress

    progress, waiting, count = Progress("texts", len(texts)), {}, 0
    for number, (name, sentences) in enumerate(texts.items(), 1):
        waiting[name] = sentences
        count += len(sentences)
        if count >= SENTENCES_PER_STEP or number == len(texts):
            rows = iter(extractor.words([s for parts in waiting.values() for s in parts]))
            for done, parts in waiting.items():
                yield done, np.concatenate([next(rows) for _ in parts])
            progress.add(len(waiting))
            waiting, count = {}, 0


def _make_vocabulary(
    args: argparse.Namespace, questions: list[Question], said: dict[str, list[list[str]]]
) -> None:
    """`word2idx.json`: the given one, or the words of the training questions and subtitles."""
    path = args.out / PUBLISHED["word2idx"]
    if path.exists():
        say(f"{path}: left as it is")
    elif args.word2idx:
        write_json(path, read_words(args.word2idx))
    else:
        chosen = [question for question in questions if question.video in said]
        words = {word for q in chosen for k in range(len(q.choices)) for word in q.words(k)}
        spoken = (sentence for sentences in said.values() for sentence in sentences)
        words |= {word.lower() for sentence in spoken for word in sentence}
        names = [*FIRST_WORDS, *sorted(words - {*FIRST_WORDS})]
        write_json(path, {word: number for number, word in enumerate(names)})
        say(f"{path}: {len(names)} words")


# regions


def _make_regions(
    args: argparse.Namespace,
    questions: list[Question],
    training: list[str],
    options: dict[str, Any],
) -> None:
    """Region features, the boxes they belong to, and the numbers of frames."""
    clips = Clips(args.videos, args.size, list(dict.fromkeys(q.video for q in questions)))
    write_json(args.out / PUBLISHED["frm_cnt"], clips.lengths)
    extractor = _region_extractor(args, clips, training, options)
    vfeat, vcpt = (args.out / PUBLISHED[option] for option in ("vfeat", "vcpt"))
    inputs = [_digest(args.regions), args.size, clips.sizes]
    stamp = _stamp(extractor.identity, inputs)
    if not _is_done(vfeat, stamp):
        part = args.out / f".vfeat-{stamp[:12]}"  # goes on here when it was stopped
        part.mkdir(exist_ok=True)
        rows = {clip: part / f"{number}.npy" for number, clip in enumerate(sorted(clips.lengths))}
        _extract(args.regions, clips, rows, extractor)
        if not vcpt.exists() or not vcpt.samefile(args.regions):
            _copy_entries(args.regions, vcpt, clips.lengths)
        _write_rows(vfeat, stamp, ((c, np.load(p, mmap_mode="r")) for c, p in rows.items()))
        for part in args.out.glob(".vfeat-*"):
            shutil.rmtree(part)
    _sign(args.out, "regions", extractor.identity)


def _extract(path: Path, clips: Clips, rows: dict[str, Path], extractor: Any) -> None:
    """A file of rows for every clip that has none yet."""
    from tools.extract import Progress

    progress = Progress("clips", len(rows))
    for clip, entry in _entries(path, list(rows)):
        if not rows[clip].exists():
            values = clips.rows(clip, f"{path}: {clip}", entry, extractor)
            with open(rows[clip].with_suffix(".tmp"), "wb") as file:
                np.save(file, values)
            rows[clip].with_suffix(".tmp").replace(rows[clip])
        progress.add(1)


def _entries(path: Path, clips: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """(clip, entry) of clips of a large JSON file, in its order.

    Raises:
        DataError: at the end, when a clip was missing.
    """
    left = dict.fromkeys(clips)
    for clip, entry in stream_json(path):
        if clip in left:
            del left[clip]
            yield clip, entry
        if not left:
            return
    raise DataError(f"{path}: expected regions of {next(iter(left))}, found none")


def _copy_entries(source: Path, target: Path, clips: Iterable[str]) -> None:
    partial = target.with_name(f".{target.name}.part")
    with open(partial, "w", encoding="utf-8") as file:
        for number, (clip, entry) in enumerate(_entries(source, list(clips))):
            file.write("," if number else "{")
            file.write(f"{json.dumps(clip)}:{json.dumps(entry, separators=(',', ':'))}\n")
        file.write("}\n")
    partial.replace(target)


def _region_extractor(
    args: argparse.Namespace, clips: Clips, training: list[str], options: dict[str, Any]
) -> Any:
    """The extractor; with --pca a PCA is fitted for it unless there is one."""
    from engine import log

    path = options.get("pca")
    if args.pca and not path:
        raise ConfigError(f"--pca: expected {args.config} to name DATASET.extractors.regions.pca")
    plain = _build("regions", {key: value for key, value in options.items() if key != "pca"})
    plain.freeze(log.logger.info)
    if not path:
        return plain
    if not _belongs(Path(path), plain.identity, args.pca):
        if not args.pca:
            raise ConfigError(f"{path}: expected a PCA for this extractor, found none; add --pca N")
        chosen = [training[i] for i in np.linspace(0, len(training) - 1, FIT_CLIPS).astype(int)]
        vectors = (
            clips.rows(clip, f"{args.regions}: {clip}", entry, plain, FIT_INTERVAL)
            for clip, entry in _entries(args.regions, chosen)
        )
        mean, components = fit_pca(vectors, args.pca)
        partial = Path(path).with_name(f".{Path(path).name}.part")
        partial.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            np.savez(file, mean=mean, components=components, made_by=_stamp(plain.identity))
        partial.replace(path)
        say(f"{path}: PCA of {plain.dim} to {args.pca} numbers")
    extractor = _build("regions", options)
    extractor.freeze(log.logger.info)
    return extractor


def _belongs(path: Path, identity: dict[str, Any], dim: int | None) -> bool:
    """Is there a PCA for an extractor (of `dim` numbers if given), or one that does not say?"""
    if not path.exists():
        return False
    try:
        with np.load(path, allow_pickle=False) as file:
            if "made_by" not in file:
                return True
            right = str(file["made_by"]) == _stamp(identity)
            return right and dim in (None, len(file["components"]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return False


def _build(role: str, options: dict[str, Any]) -> Any:
    from engine import build

    extractor, method = build.build_extractor(**options), METHODS[role]
    if not hasattr(extractor, method):
        raise ConfigError(
            f"DATASET.extractors.{role}: expected an extractor with {method}, found "
            f"{options['name']}"
        )
    return extractor


# files


def _stamp(*inputs: Any) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _is_done(path: Path, stamp: str) -> bool:
    """Is a file complete and made of the same inputs?

    Raises:
        DataError: there is a file that was not made here.
    """
    import h5py

    if not path.exists():
        return False
    try:
        with h5py.File(path, "r") as file:
            found = file.attrs.get("made_from")
    except OSError:
        found = None
    if found is None:
        raise DataError(f"{path}: not made by this command; choose another --out or move the file")
    if found == stamp:
        say(f"{path}: complete")
    return found == stamp


def _write_rows(path: Path, stamp: str, blocks: Blocks) -> None:
    """Write blocks of rows under their names; the file appears when it is complete."""
    import h5py

    partial, count = path.with_name(f".{path.name}.part"), 0
    with h5py.File(partial, "w") as file:
        file.attrs["made_from"] = stamp
        for name, rows in blocks:
            if not np.isfinite(rows).all():
                raise DataError(f"{path}: the extractor gave NaN or infinity for {name}")
            file.create_dataset(name, data=np.asarray(rows, np.float32))
            count += len(rows)
    os.replace(partial, path)
    say(f"{path}: {count} rows")


def _sign(out: Path, role: str, identity: dict[str, Any]) -> None:
    """Note in `identity.json` what made the features of a role."""
    path = out / IDENTITY
    known = read_json(path) if path.exists() else {}
    write_json(path, {**known, role: identity})
