# SPDX-License-Identifier: Apache-2.0
"""Weights files of every format: read alike, and refused in one line when damaged or hostile."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from engine import formats
from engine.errors import WeightsError

HERE = Path(__file__).resolve().parents[1] / "golden" / "formats"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "golden" / "tall"
RNG = np.random.default_rng(3)
STATE = {
    "mid": RNG.normal(size=(3, 4, 1, 1)).astype(np.float32),
    "bias": RNG.normal(size=5).astype(np.float32),
    "steps": np.arange(3),
}
SHAPES = {name: value.shape for name, value in STATE.items()}


def same(a: dict, b: dict) -> bool:
    def equal(x, y):
        return x.dtype == y.dtype and x.shape == y.shape and np.array_equal(x, y)

    return set(a) == set(b) and all(equal(a[k], b[k]) for k in b)


# ---- writers of small files


def stream(arrays) -> bytes:
    """Paddle 1.6: tensors without names."""
    kinds, out = {"float32": 5, "int64": 3, "float16": 4}, b""
    for array in arrays:
        header = bytes([8, kinds[str(array.dtype)]])
        header += b"".join(b"\x10" + varint(n) for n in array.shape)
        out += struct.pack("<IQIi", 0, 0, 0, len(header)) + header + array.tobytes()
    return out


def varint(n: int) -> bytes:
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(n: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", n)


def tensor(
    key: str, numel: int, size: tuple, stride: tuple, offset: int = 0, kind="Float"
) -> bytes:
    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(" + text("storage") + f"ctorch\n{kind}Storage\n".encode()
    storage += text(key) + text("cpu") + number(numel) + b"tQ"
    rest = number(offset) + numbers(size) + numbers(stride) + b"\x89" + b")"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"tR"


def torch_zip(pickled: bytes, storages: dict[str, bytes], **extra: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        for key, raw in storages.items():
            archive.writestr(f"x/data/{key}", raw)
        for name, raw in extra.items():
            archive.writestr(f"x/{name}", raw)
    return buffer.getvalue()


def torch_pickle(**tensors: bytes) -> bytes:
    return b"\x80\x02}(" + b"".join(text(k) + v for k, v in tensors.items()) + b"u."


def as_npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **STATE)
    return buffer.getvalue()


def as_safetensors() -> bytes:
    from safetensors.numpy import save

    return save(STATE)


def as_torch(big: bool = False) -> bytes:
    order, kinds = (">" if big else "<"), {"mid": "Float", "bias": "Float", "steps": "Long"}
    raw = {k: v.astype(v.dtype.newbyteorder(order)).tobytes() for k, v in STATE.items()}
    tensors = {
        k: tensor(k, v.size, v.shape, tuple(s // v.itemsize for s in v.strides), 0, kinds[k])
        for k, v in STATE.items()
    }
    return torch_zip(torch_pickle(**tensors), raw, byteorder=b"big" if big else b"little")


SAMPLES = {
    "pickle 2": lambda: pickle.dumps(STATE, 2),
    "pickle 4": lambda: pickle.dumps(STATE, 4),
    "pickle 0": lambda: pickle.dumps(STATE, 0),
    "stream": lambda: stream([STATE[k] for k in sorted(STATE)]),
    "torch zip": as_torch,
    "torch zip, big-endian": lambda: as_torch(big=True),
    "safetensors": as_safetensors,
    "npz": as_npz,
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_content_decides_not_the_name(kind, tmp_path):
    for name in ("a.pdparams", "b.pth", "c.npz", "no_suffix"):
        (tmp_path / name).write_bytes(SAMPLES[kind]())
        read = formats.load_state(tmp_path / name, SHAPES)
        assert same(read, STATE)
        assert not any(value.flags.writeable for value in read.values())


def test_folder_with_one_stream_per_variable(tmp_path):
    for name, value in STATE.items():
        (tmp_path / name).write_bytes(stream([value]))
    (tmp_path / "bias_moment1_0").write_bytes(stream([STATE["bias"]]))
    (tmp_path / "__model__").write_bytes(b"program")
    read, optimiser = formats.load_checkpoint(tmp_path, SHAPES)
    assert same(read, STATE) and same(optimiser, {"bias_moment1_0": STATE["bias"]})
    assert set(formats.load_state(tmp_path)) == {*STATE, "bias_moment1_0"}
    (tmp_path / "notes.txt").write_text("not a stream at all")
    with pytest.raises(WeightsError, match=r"notes\.txt"):
        formats.load_state(tmp_path)


@pytest.mark.parametrize("rate", [False, True])
@pytest.mark.parametrize("kind", ["adam", "momentum"])
def test_stream_with_optimiser_variables(kind, rate, tmp_path):
    shapes = {"v2s": (3, 2), "mid": (2, 1)}
    full = {n: np.full(s, i, np.float32) for i, (n, s) in enumerate(shapes.items())}
    parameters = dict(full)
    for name, shape in shapes.items():
        if kind == "momentum":
            full[f"{name}_velocity_0"] = np.full(shape, 7, np.float32)
            continue
        full |= {f"{name}_moment{i}_0": np.full(shape, 10 + i, np.float32) for i in (1, 2)}
        full |= {f"{name}_beta{i}_pow_acc_0": np.full(1, i / 3, np.float32) for i in (1, 2)}
    if rate:
        full["learning_rate_0"] = np.array([1e-3], np.float32)
    path = tmp_path / "x.pdckpt"
    path.write_bytes(stream([full[k] for k in sorted(full)]))
    read, optimiser = formats.load_checkpoint(path, shapes)
    assert same(read, parameters)
    assert same(optimiser, {k: v for k, v in full.items() if k not in shapes})


def test_stream_needs_the_right_network(tmp_path):
    path = tmp_path / "TALL_final.pdparams"
    path.write_bytes(stream([STATE["bias"], STATE["mid"]]))
    with pytest.raises(WeightsError, match=r"without names; it can be read only together"):
        formats.load_state(path)
    with pytest.raises(WeightsError, match=r"1 tensors \(bias \[5\]\).*found 2 \(\[5\], \[3, 4, 1"):
        formats.load_state(path, {"bias": (5,)})
    with pytest.raises(WeightsError, match=r"bias \[4\], mid \[3, 4, 1, 1\]"):
        formats.load_state(path, {"bias": (4,), "mid": (3, 4, 1, 1)})


def test_stream_types_levels_and_packed_shape(tmp_path):
    bits = np.array([0x3F80, 0xC040], np.uint16)  # 1 and -3 in bfloat16
    level = struct.pack("<Q", 8) + bytes(8)
    tensors = stream([np.float16([[1, 2]])])
    tensors += struct.pack("<IQ", 0, 1) + level + struct.pack("<Ii", 0, 6)
    tensors += bytes([8, 22, 0x12, 2, 2, 1]) + bits.tobytes()
    path = tmp_path / "x"
    path.write_bytes(tensors)
    read = formats.load_state(path, {"a": (1, 2), "b": (2, 1)})
    assert same(read, {"a": np.float16([[1, 2]]), "b": np.float32([[1], [-3]])})


def test_python_2_pickle():
    read = formats.load_state(HERE / "TALL_py2.pdparams")
    assert {k: v.shape for k, v in read.items()} == {
        "v2s_lt_weights": (24, 16), "s2s_lt_weights": (10, 16),
        "mid_out_weights": (12, 64, 1, 1), "sim_mat_weights": (3, 12, 1, 1),
    }  # fmt: skip
    assert all(v.dtype == np.float32 and np.isfinite(v).all() for v in read.values())


@pytest.mark.skipif(not SHARED.exists(), reason="the folder shared is not beside the repository")
def test_published_checkpoint_in_all_its_forms():
    arrays, folder = np.load(SHARED / "e2e_train_a.npz"), SHARED / "ckpt_a"
    after, before = (
        {k.removeprefix(p): arrays[k] for k in arrays.files if k.startswith(p)}
        for p in ("after/", "param/")
    )
    shapes = {k: v.shape for k, v in after.items()}
    for name in ("TALL.pdparams", "TALL_py2.pdparams", "TALL_final.pdparams", "per_var"):
        assert same(formats.load_state(folder / name, shapes), after)
    assert same(formats.load_state(folder / "TALL_init.pdparams"), before)
    read, optimiser = formats.load_checkpoint(folder / "TALL_final.pdckpt", shapes)
    assert same(read, after) and same(optimiser, formats.load_state(folder / "TALL.pdopt"))


@pytest.mark.parametrize("name", ["pth_edge_zip.pth", "pth_edge_legacy.pth"])
def test_genuine_torch_files(name):
    wanted = np.load(HERE / "pth_edge.npz")
    tree = formats.load_object(HERE / name)
    for key in wanted.files:
        value = tree
        for step in key.split("/"):
            value = value[int(step)] if isinstance(value, list) else value[step]
        value = np.asarray(value)
        assert same({key: value}, {key: wanted[key]})
    assert tree["args"]["name"] and isinstance(tree["nested"]["tuple"], tuple)
    model = {k.removeprefix("model/"): wanted[k] for k in wanted.files if k.startswith("model/")}
    assert same(formats.load_state(HERE / name), model)


@pytest.mark.parametrize("wrap", [
    lambda s: {"epoch": 3, "best": np.float32(1), "state_dict": s, "optimizer": {"state": {0: s}}},
    lambda s: {"model": s, "iteration": 9, "scheduler": {}},
    lambda s: {"model_state": OrderedDict(s)},
    lambda s: {"blobs": s, "cfg": "text"},
    lambda s: {"state": {"model": s}},
    lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    lambda s: {k.encode(): v for k, v in s.items()},
    lambda s: {k: (f"linear_0.{k}", v) for k, v in s.items()},
    lambda s: {**s, "StructuredToParameterName@@": dict.fromkeys(s, "linear_0.w_0"), "LR": {}},
])  # fmt: skip
def test_parameters_are_found_inside_checkpoints(wrap, tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(wrap(STATE), 2))
    assert same(formats.load_state(path), STATE)


def test_slices_of_big_parameters_are_joined(tmp_path):
    mid = STATE["mid"].ravel()
    state = {"bias": STATE["bias"], "steps": STATE["steps"], "mid@@.0": mid[:5], "mid@@.1": mid[5:]}
    table = {"mid": {"OriginShape": (3, 4, 1, 1), "slices": ["mid@@.0", "mid@@.1"]}}
    path = tmp_path / "x.pdparams"
    path.write_bytes(pickle.dumps({**state, "UnpackBigParamInfor@@": table}, 2))
    assert same(formats.load_state(path), STATE)


def test_paddle_reads_ours_and_we_read_paddles(tmp_path):
    paddle = pytest.importorskip("paddle")
    state = {**STATE, "scalar": np.float32(2), "strided": np.arange(12.0).reshape(3, 4).T}
    formats.save_state(tmp_path / "ours.pdparams", state)
    with open(tmp_path / "file.pdparams", "wb") as file:
        formats.save_state(file, {**STATE, "LR_Scheduler": {"last_epoch": 3}})
    read = paddle.load(str(tmp_path / "ours.pdparams"), return_numpy=True)
    assert same(
        {k: np.asarray(v) for k, v in read.items()}, {k: np.asarray(v) for k, v in state.items()}
    )
    assert paddle.load(str(tmp_path / "file.pdparams"))["LR_Scheduler"] == {"last_epoch": 3}
    assert same(formats.load_state(tmp_path / "file.pdparams"), STATE)
    layer = paddle.nn.Linear(3, 2)
    for protocol in (2, 4):
        path = tmp_path / f"paddle{protocol}.pdparams"
        paddle.save(layer.state_dict(), str(path), protocol=protocol)
        values = {k: v.numpy() for k, v in layer.state_dict().items()}
        assert same(formats.load_state(path), values)
    paddle.save({"model": layer.state_dict(), "epoch": 2}, str(tmp_path / "nested"))
    assert same(formats.load_state(tmp_path / "nested"), values)


def test_saving_replaces_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "new" / "x.pdparams"
    formats.save_state(path, STATE)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        formats.save_state(path, {"other": np.zeros(3)})
    assert same(formats.load_state(path), STATE) and os.listdir(path.parent) == [path.name]


def test_safetensors_bfloat16(tmp_path):
    bits = np.array([0x3F80, 0xC040], np.uint16)
    header = b'{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"__metadata__":{"a":"b"}}'
    path = tmp_path / "x"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bits.tobytes())
    assert same(formats.load_state(path), {"w": np.float32([1, -3])})
    path.write_bytes(path.read_bytes().replace(b'"BF16"', b'"I16" '))
    assert same(formats.load_state(path), {"w": bits.view(np.int16)})


def test_large_torch_tensors_stay_in_the_file(tmp_path):
    value = np.arange(1 << 19, dtype=np.float32).reshape(512, 1024)
    pickled = torch_pickle(
        whole=tensor("0", value.size, (512, 1024), (1024, 1)),
        turned=tensor("0", value.size, (1024, 512), (1, 1024)),
    )
    path = tmp_path / "big.pth"
    shift = -torch_zip(pickled, {"0": value.tobytes()}).index(value.tobytes()) % 4
    path.write_bytes(  # with the storage aligned, as PyTorch does
        torch_zip(pickled + b" " * shift, {"0": value.tobytes()})
    )
    read = formats.load_state(path)
    assert read["whole"].base is not None and read["turned"].base is None
    assert same(read, {"whole": value, "turned": value.T})


# ---- what is refused


def refused(path: Path, said: str, expected=None) -> None:
    with pytest.raises(WeightsError, match=said) as caught:
        formats.load_state(path, expected)
    message = str(caught.value)
    assert caught.value.exit_code == 4 and "\n" not in message and str(path) in message


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("weights"))
    return buffer.getvalue()


@pytest.mark.parametrize("content,said", [
    (b"", "empty file"),
    (b"<!DOCTYPE html>\n<html><body>Not Found</body></html>", "web page"),
    (b"\n  <?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS pointer"),
    (b'{"code": 404, "message": "Not Found"}', "text"),
    (b"\xde\xad\xbe\xef" * 20, "unknown format .*de ad be ef"),
    (bytes(600), "damaged"),
    (b"\x1f\x8b\x08\x00rest", "gzip archive; unpack"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"\x93NUMPY\x01\x00", "single numpy array"),
    (archive(), "tar archive; unpack"),
    (torch_zip(b"\x80\x02}.", {}, **{"code/a.py": b""}), "TorchScript"),
    (torch_zip(b"\x80\x02ctorch.nn.modules.linear\nLinear\n)\x81.", {}), r"torch\.nn.*Linear"),
    (pickle.dumps({"epoch": 1, "names": ["a"]}, 2), r"found dict with \['epoch', 'names'\]"),
    (pickle.dumps([np.zeros(3)], 2), "dictionary of arrays, found list"),
    (pickle.dumps({"a": {"x": np.zeros(2)}, "b": {"x": np.zeros(2)}}, 2), "dictionary of arrays"),
])  # fmt: skip
def test_other_files(content, said, tmp_path):
    path = tmp_path / "weights.pdparams"
    path.write_bytes(content)
    refused(path, said)


def test_other_zip_archives_and_paths(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as other:
        other.writestr("TALL.pdparams", b"x")
    refused(path, "zip archive; unpack")
    refused(tmp_path / "none", "cannot be read")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "found 0 files")


@pytest.mark.parametrize("kind", [*SAMPLES, "torch legacy"])
def test_truncated(kind, tmp_path):
    data = SAMPLES[kind]() if kind in SAMPLES else (HERE / "pth_edge_legacy.pth").read_bytes()
    path = tmp_path / "x.pdparams"
    tenths = {len(data) * i // 10 for i in range(10)}
    for cut in sorted(tenths | set(range(0, len(data), 37)) | {len(data) - 1}):
        path.write_bytes(data[:cut])
        refused(path, "expected", SHAPES)


@pytest.mark.parametrize("kind", SAMPLES)
def test_damage_is_an_error_or_gives_arrays(kind, tmp_path):
    data, path, rng = SAMPLES[kind](), tmp_path / "x", np.random.default_rng(1)
    for _ in range(150):
        damaged = bytearray(data)
        for at in rng.integers(0, min(len(data), 400), 2):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            read = formats.load_state(path, SHAPES)
        except WeightsError as error:
            assert "\n" not in str(error)
        else:
            assert all(isinstance(value, np.ndarray) for value in read.values())


@pytest.mark.parametrize("size,stride,offset,numel", [
    ((5,), (1,), 0, 4), ((4,), (1,), 1, 4), ((2, 2), (3, 1), 0, 4), ((4,), (1,), 0, 1 << 40),
    ((2,), (-1,), 3, 4), ((2,), (1,), -1, 4), ((-1,), (1,), 0, 4), ((2, 2), (1,), 0, 4),
    ((1 << 36,), (0,), 0, 4), ((1 << 20,) * 8, (0,) * 8, 0, 4),
])  # fmt: skip
def test_torch_tensors_stay_inside_their_storage(size, stride, offset, numel, tmp_path):
    path = tmp_path / "x.pth"
    pickled = torch_pickle(w=tensor("0", numel, size, stride, offset))
    path.write_bytes(torch_zip(pickled, {"0": bytes(16), "1": bytes(1 << 12)}))
    if numel == 1 << 40:  # the storage itself is shorter than it says
        size = (4,)
    refused(path, "damaged or incomplete")


def test_torch_storage_missing_or_compressed(tmp_path):
    path, pickled = tmp_path / "x.pth", torch_pickle(w=tensor("0", 4, (4,), (1,)))
    path.write_bytes(torch_zip(pickled, {}))
    refused(path, "storage 0 is missing")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("x/data.pkl", pickled)
        packed.writestr("x/data/0", bytes(16))
    refused(path, "compressed")


def test_small_files_cannot_claim_much_memory(tmp_path):
    path = tmp_path / "x.pth"
    many = {f"t{i}": tensor("0", 1 << 18, (1 << 18, 4), (1, 0)) for i in range(200)}
    path.write_bytes(torch_zip(torch_pickle(**many), {"0": bytes(1 << 20)}))
    refused(path, "far larger than the file")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("w.npy", b"x")
        packed.filelist[0].file_size = 1 << 40
    refused(path, "far larger than the file")
    path.write_bytes(struct.pack("<IQIi", 0, 0, 0, 8) + bytes([8, 5, 16]) + b"\x80" * 4 + b"\x10")
    refused(path, "damaged", SHAPES)


class Evil:
    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize(
    "kind", ["pdparams", "detectron", "torch zip", "torch legacy", "npz", "extra"]
)
def test_no_code_runs(kind, tmp_path):
    path, canary = tmp_path / "weights", tmp_path / "canary"
    evil = pickle.dumps({"w": np.zeros(2), "x": [Evil(canary)]}, 2)
    legacy = (HERE / "pth_edge_legacy.pth").read_bytes()
    if kind == "npz":
        np.savez(path, w=np.array([Evil(canary)], dtype=object))
        path = path.with_suffix(".npz")
    else:
        path.write_bytes({
            "pdparams": pickle.dumps({"w": np.zeros(2), "x": Evil(canary)}, 4),
            "detectron": pickle.dumps({"model": {"w": np.array([Evil(canary)], object)}}, 0),
            "torch zip": torch_zip(evil, {}),
            "torch legacy": legacy[: legacy.index(b"\x80\x02}q\x00(X\x05\x00\x00\x00model")] + evil,
            "extra": torch_zip(
                b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(cposix\nsystem\nN"
                + text(f"touch {canary}") + b"\x85NtR.", {}
            ),
        }[kind])  # fmt: skip
    refused(path, r"posix\.system|object array|allow_pickle")
    assert not canary.exists()
