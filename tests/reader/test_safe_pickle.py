# SPDX-License-Identifier: Apache-2.0
"""The allow-list unpickler: reads what data files hold, and nothing else."""

from __future__ import annotations

import builtins
import copyreg
import io
import os
import pickle
import struct
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from reader.common import safe_pickle
from reader.common.errors import DataError

PROTOCOLS = range(6)
ROOT = Path(__file__).resolve().parents[2]


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(4, 3)).astype(np.float32)
    made = {t: np.arange(6).astype(t).reshape(2, 3) for t in ("?", "i1", "u2", "i8", "f2", "f8")}
    made |= {"swapped": base.astype(">f4"), "complex": base.astype(np.complex64)}
    made |= {"fortran": np.asfortranarray(base), "slice": base[::2, 1:], "scalar": np.array(3.5)}
    made |= {"empty": np.zeros((0, 4), np.float32), "text": np.array(["a", "bcd"])}
    return made | {"bytes": np.array([b"a", b"bcd"]), "axes": np.arange(24).reshape(2, 3, 4).T}


def plain() -> dict:
    return {
        "numbers": [0, -1, 255, 70000, 2**40, -(2**70), 1.5, True, None, 2 + 3j],
        "text": ("naïve \u4e2d", "", b"\x00\xff", bytearray(b"xyz"), b"", bytearray()),
        "sets": [{1, 2}, frozenset({"a"}), set()],
        "ordered": OrderedDict([("b", 1), ("a", [()])]),
        "numpy": [np.float32(2.5), np.int64(-3), np.bool_(True)],
    }


def same(a, b) -> bool:
    if isinstance(b, np.ndarray):
        kinds = (b.dtype, b.dtype.newbyteorder("="))  # numpy may swap bytes while it reads
        return type(a) is np.ndarray and a.dtype in kinds and np.array_equal(a, b)
    if isinstance(b, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[k], b[k]) for k in b)
    if isinstance(b, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_reads_what_it_should(protocol):
    value = {"plain": plain(), "arrays": arrays()}
    assert same(safe_pickle.loads(pickle.dumps(value, protocol)), value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shared_and_recursive_objects_stay_shared(protocol):
    array = np.arange(3)
    loop = [array, array]
    loop.append(loop)
    read = safe_pickle.loads(pickle.dumps(loop, protocol))
    assert read[0] is read[1] and read[2] is read and read[0].flags.writeable


@pytest.mark.parametrize(
    "old,new", [(b"numpy._core", b"numpy.core"), (b"numpy.core", b"numpy._core")]
)
def test_both_names_of_numpys_core(old, new):
    data = pickle.dumps([np.arange(3), np.float32(1)], 2).replace(old, new)
    assert same(safe_pickle.loads(data), [np.arange(3), np.float32(1)])


# Python 2 wrote these: {"s30-d52": array([1, 2], dtype=float32)} with protocols 0 and 2
PYTHON2 = {
    0: b"(dp1\nS's30-d52'\np2\ncnumpy.core.multiarray\n_reconstruct\np3\n(cnumpy\nndarray\np4\n"
    b"(I0\ntS'b'\ntRp5\n(I1\n(I2\ntcnumpy\ndtype\np6\n(S'f4'\nI0\nI1\ntRp7\n(I3\nS'<'\nNNNI-1\nI-1"
    b"\nI0\ntbI00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00@'\ntbs.",
    2: b"\x80\x02}q\x01U\x07s30-d52q\x02cnumpy.core.multiarray\n_reconstruct\nq\x03"
    b"cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x02\x85"
    b"cnumpy\ndtype\nq\x06U\x02f4K\x00K\x01\x87Rq\x07(K\x03U\x01<NNNJ\xff\xff\xff\xff"
    b"J\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x80?\x00\x00\x00@tbs.",
}


@pytest.mark.parametrize("protocol", PYTHON2)
@pytest.mark.parametrize("encoding", ["latin1", "bytes"])
def test_python_2(protocol, encoding):
    read = safe_pickle.loads(PYTHON2[protocol], encoding=encoding)
    (name, array), *rest = read.items()
    assert name == ("s30-d52" if encoding == "latin1" else b"s30-d52") and not rest
    assert same(array, np.array([1, 2], np.float32))


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def command(canary: Path) -> str:
    return f"touch {canary}"


def attacks(canary: Path) -> dict[str, bytes]:
    run = text(command(canary))
    system = b"cos\nsystem\n"
    stacked = text("posix") + text("system") + b"\x93"
    allowed = b"ccollections\nOrderedDict\n"
    array = b"cnumpy\nndarray\n"
    return {
        "reduce": system + b"(" + run + b"tR.",
        "python 2 name": b"c__builtin__\neval\n(" + text("1+1") + b"tR.",
        "stack global": b"\x80\x04" + stacked + run + b"\x85R.",
        "memo": b"\x80\x04" + stacked + b"q\x010h\x01" + run + b"\x85R.",
        "inst": b"(" + run + b"ios\nsystem\n.",
        "obj": b"(" + system + run + b"o.",
        "newobj": b"\x80\x02csubprocess\nPopen\n(" + run + b"t\x81.",
        "newobj of allowed": b"\x80\x02" + allowed + b")\x81.",
        "newobj_ex": b"\x80\x04" + allowed + b")}\x92.",
        "build on function": b"\x80\x02" + allowed + b"}" + text("x") + system + b"sb.",
        "set attribute": b"\x80\x02" + allowed + b"N}" + text("__call__") + b"K\x01s\x86b.",
        "call an array": b"\x80\x02" + array + b")R.",
        "call a string": b"\x80\x02" + text("x") + b")R.",
        "extension": b"\x80\x02\x82\xf0" + run + b"\x85R.",
        "dotted name": b"\x80\x04" + text("numpy") + text("ndarray.tofile") + b"\x93.",
        "file reader": b"\x80\x02cnumpy\nload\n" + text("/etc/passwd") + b"\x85R.",
        "getattr": b"\x80\x02cbuiltins\ngetattr\n.",
        "codec": b"\x80\x02c_codecs\nencode\n" + text("x") + text("zip") + b"\x86R.",
        "outside object": b"\x80\x02" + text("x") + b"Q.",
        "long bytearray": b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
    }


@pytest.mark.parametrize("name", attacks(Path("x")))
def test_refuses_attacks(name, tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "data.pkl"
    copyreg.add_extension("os", "system", 0xF0)
    try:
        pickle.loads(b"\x80\x02\x82\xf0.")  # fills the cache that bypasses find_class
        path.write_bytes(attacks(canary)[name])
        with pytest.raises(DataError) as caught:
            safe_pickle.load(path)
    finally:
        copyreg.remove_extension("os", "system", 0xF0)
    assert caught.value.exit_code == 3 and str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value) and not canary.exists()


class Evil:
    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return os.system, (command(self.canary),)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("wrap", ["list", "dictionary", "object array", "tuple key", "state"])
def test_refuses_code_anywhere_inside(protocol, wrap, tmp_path):
    evil = Evil(tmp_path / "canary")
    value = {
        "list": [np.arange(2), [evil]],
        "dictionary": {"a": 1, "b": {"c": evil}},
        "object array": np.array([evil, None], dtype=object),
        "tuple key": {("a", evil): 1},
        "state": OrderedDict(a=(np.zeros(1), evil)),
    }[wrap]
    with pytest.raises(DataError, match=r"(posix|nt)\.system|object arrays"):
        safe_pickle.loads(pickle.dumps(value, protocol))
    assert not evil.canary.exists()


@pytest.mark.parametrize("value", [
    np.array([1, "a"], dtype=object), np.zeros(2, [("a", "f4"), ("b", "O")]),
    np.zeros(2, "M8[s]"), np.zeros(2, "V8"), np.ma.zeros(2), range(3), Path("x"), print, Evil,
])  # fmt: skip
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_refuses_other_types(value, protocol):
    with pytest.raises(DataError, match="expected plain data, found a pickle that"):
        safe_pickle.loads(pickle.dumps(value, protocol))


def test_names_what_was_asked_for(tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"cos\nsystem\n(" + text("true") + b"tR.")
    with pytest.raises(DataError, match=r"weights\.pkl.*'os\.system'.*not loaded"):
        safe_pickle.load(path)


def test_extra_names_and_outside_objects():
    class Options(dict):
        def __setstate__(self, state):
            self.update(state)

    data = b"\x80\x02(cmine\nOptions\n)\x81}" + text("a") + b"K\x01sbcmine\ndouble\nK\x04\x85R"
    data += text("key") + b"Ql."
    read = safe_pickle.load_stream(
        io.BytesIO(data), name="x", persistent_load=lambda key: f"<{key}>",
        extra={("mine", "Options"): Options, ("mine", "double"): lambda x: 2 * x},
    )  # fmt: skip
    assert read == [{"a": 1}, 8, "<key>"]


def test_consecutive_pickles_in_one_file(tmp_path):
    path = tmp_path / "two.pkl"
    path.write_bytes(pickle.dumps([1], 2) + pickle.dumps(np.arange(2), 4) + b"rest")
    with open(path, "rb") as file:
        assert safe_pickle.load_stream(file, name="two") == [1]
        assert same(safe_pickle.load_stream(file, name="two"), np.arange(2))
        assert file.read() == b"rest"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_truncated_at_every_byte(protocol):
    data = pickle.dumps(
        {"names": ["a", b"b", 2**40], "x": np.arange(5, dtype=np.float32)}, protocol
    )
    for cut in range(len(data)):
        with pytest.raises(DataError, match=r"breaks off|empty file"):
            safe_pickle.loads(data[:cut])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_damage_gives_a_value_or_a_data_error(protocol, monkeypatch):
    called = []
    monkeypatch.setattr(builtins, "eval", lambda *a: called.append(a))
    data = bytearray(pickle.dumps({"a": arrays()["fortran"], "b": plain()["numbers"]}, protocol))
    rng = np.random.default_rng(protocol)
    failed = 0
    for _ in range(400):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            damaged[at] = rng.integers(0, 256)
        try:
            safe_pickle.loads(bytes(damaged))
        except DataError as error:
            failed += 1
            assert "\n" not in str(error)
    assert failed > 100 and not called


@pytest.mark.parametrize("content,said", [
    (b"", "empty file"), (b"<!DOCTYPE html><html>404", "unreadable"), (b"\x00" * 50, "unreadable"),
    (b"garbage garbage", "breaks off"),
])  # fmt: skip
def test_no_pickle_at_all(content, said, tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        safe_pickle.load(path)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.pkl", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            safe_pickle.load(path)


BOMBS = {
    "memo index": b"\x80\x02Nr\xff\xff\xff\xff.",
    "long bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
    "long text": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x.",
    "long bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
    "long frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.",
    "repeated array bytes": b"\x80\x04(\x8e" + struct.pack("<Q", 1 << 20) + bytes(1 << 20)
    + b"q\x00" + (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        b"(K\x01J\x00\x00\x10\x00\x85cnumpy\ndtype\n\x8c\x02u1\x89\x88\x87R\x89h\x00tb"
    ) * 5000 + b"l.",
    "repeated lists": b"\x80\x04(](" + b"N" * 100_000 + b"eq\x00"
    + b"cbuiltins\nlist\nh\x00\x85R" * 20_000 + b"l.",
}  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_small_files_cannot_claim_much_memory(tmp_path):
    for name, data in BOMBS.items():
        (tmp_path / name).write_bytes(data)
    script = (
        "import os, resource, sys\n"
        "from reader.common import safe_pickle\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (512 << 20),) * 2)\n"
        "for name in sorted(os.listdir(sys.argv[1])):\n"
        "    for read in (safe_pickle.load, lambda p: safe_pickle.loads(open(p, 'rb').read())):\n"
        "        try:\n"
        "            value = read(os.path.join(sys.argv[1], name))\n"
        "        except safe_pickle.DataError as error:\n"
        "            assert 'MemoryError' not in str(error), error\n"
        "        else:\n"
        "            assert name == 'memo index' and value is None, name\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
