# SPDX-License-Identifier: Apache-2.0
"""Small videos whose frames show their own number, and damaged ones."""

from __future__ import annotations

import struct

import numpy as np

BITS, WIDTH, HEIGHT = 10, 160, 48


def picture(number):
    """A frame with its number as a row of black and white bars."""
    bars = np.array([255 * (number >> bit & 1) for bit in range(BITS)], np.uint8)
    return np.repeat(np.tile(np.repeat(bars, WIDTH // BITS), (HEIGHT, 1))[..., None], 3, axis=2)


def number(frame):
    """The number that a decoded frame shows."""
    middle = frame[HEIGHT // 2, WIDTH // BITS // 2 :: WIDTH // BITS].mean(-1)
    return sum(int(value > 127) << bit for bit, value in enumerate(middle))


def write_video(path, frames, codec="mp4v", fps=25):
    """A video of numbered frames."""
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for i in range(frames):
        writer.write(picture(i))
    writer.release()
    return path


def boxes(data):
    """Name -> (position, size) of the boxes of an MP4 file's outermost level."""
    found, at = {}, 0
    while at < len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        found[name.decode()] = (at, size or len(data) - at)
        at += size or len(data)
    return found


def index_first(path):
    """Move an MP4 file's index before its data, so that it can be opened when cut short."""
    data = bytearray(path.read_bytes())
    start, size = boxes(data)["moov"]
    index = data[start : start + size]
    at = index.find(b"stco")
    count = struct.unpack(">I", index[at + 8 : at + 12])[0]
    body = boxes(data)["mdat"][0]
    assert body < start
    for i in range(at + 12, at + 12 + 4 * count, 4):
        index[i : i + 4] = struct.pack(">I", struct.unpack(">I", index[i : i + 4])[0] + size)
    path.write_bytes(data[:body] + index + data[body:start] + data[start + size :])
    return path


def cut(path, share):
    """Keep the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def write_sound(path):
    """A file with sound only."""
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
    return path
