# SPDX-License-Identifier: Apache-2.0
"""Environment of the process, set before Paddle is imported; a user's own values always win.

On CPU these switches are worth a factor of 2 to 9: Paddle runs one thread unless OMP_NUM_THREADS is
set, its stride kernels make strided copies slow, and the bundled MKL takes a slow path on AMD.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def usable_cores() -> int:
    """Cores this process may use, cgroup quota included."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return cores


def _amd_mkl_type() -> str | None:
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    if "AuthenticAMD" not in info:
        return None
    return "7" if "avx512f" in info else "5" if "avx2" in info else None


def prepare() -> dict[str, str]:
    """Set what the user has not set; returns what is in force. Call before ``import paddle``."""
    if "paddle" in sys.modules:
        return settings()
    workers = int(os.environ.get("PADDLE_LOCAL_SIZE") or os.environ.get("PADDLE_TRAINERS_NUM") or 1)
    defaults = {
        "OMP_NUM_THREADS": str(max(1, usable_cores() // workers)),
        "FLAGS_use_stride_kernel": "0",
        "GLOG_minloglevel": "2",
        "MKL_DEBUG_CPU_TYPE": _amd_mkl_type(),
    }
    for name, value in defaults.items():
        if value is not None:
            os.environ.setdefault(name, value)
    _keep_freed_memory()
    return settings()


def _keep_freed_memory() -> None:
    """Let glibc reuse large blocks instead of giving each back and faulting it in again.

    A training step frees and allocates the same tensors again; a third of its time went there.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    mmap_threshold, trim_threshold = -3, -1  # malloc.h: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
    with contextlib.suppress(OSError, AttributeError):  # no glibc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)


def import_paddle() -> None:
    """Import Paddle without its remarks about thread counts and ccache; all else is passed on."""
    import zlib  # noqa: F401 - after Paddle 2.6 it crashes: two versions of the library

    captured = io.StringIO()
    with contextlib.redirect_stderr(captured), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No ccache found")
        import paddle
    lines = [x for x in captured.getvalue().splitlines() if "OMP_NUM_THREADS" not in x]
    sys.stderr.write("".join(line + "\n" for line in lines))
    if tuple(int(n) for n in paddle.__version__.split(".")[:2]) < (2, 6):
        from .errors import ConfigError

        raise ConfigError(f"expected Paddle 2.6 or newer, found {paddle.__version__}; see README")


def settings() -> dict[str, str]:
    """The switches in force."""
    names = ("OMP_NUM_THREADS", "FLAGS_use_stride_kernel", "MKL_DEBUG_CPU_TYPE")
    return {n: os.environ[n] for n in names if n in os.environ}


def select_device(use_gpu: bool | None) -> str:
    """Choose the device: True = GPU or error, False = CPU, None = GPU when there is one.

    Raises:
        ConfigError: a GPU was asked for and this Paddle has none.
    """
    from .errors import ConfigError
    from .log import logger

    import_paddle()
    import paddle

    has_gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if use_gpu and not has_gpu:
        raise ConfigError(
            "use_gpu: expected a CUDA build of Paddle and a visible GPU, found "
            f"{paddle.__version__} on CPU; install paddlepaddle-gpu (README) or set use_gpu = False"
        )
    device = "gpu" if has_gpu and use_gpu is not False else "cpu"
    if device == "gpu":
        device = f"gpu:{os.environ.get('FLAGS_selected_gpus', '0').split(',')[0]}"
    elif use_gpu is None:
        logger.info(
            "no GPU in use: running on %s CPU threads", os.environ.get("OMP_NUM_THREADS", "1")
        )
    paddle.set_device(device)
    return device
