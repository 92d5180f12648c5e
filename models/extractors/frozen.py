# SPDX-License-Identifier: Apache-2.0
"""Runs a frozen network through `paddle.inference` with oneDNN kernels, about 3 times faster than
the dynamic graph for 3-D convolutions on CPU.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle

Function = Callable[[np.ndarray], np.ndarray]
TOLERANCE = 1e-4  # of the largest value; fp32 kernels differ by about 3e-6


def compiled(
    net: paddle.nn.Layer, eager: Function, probe: np.ndarray, log: Callable[[str], None]
) -> Function | None:
    """The network as a function array -> array, or None if it does not pay or does not work here.

    Args:
        net: one tensor in, one tensor out, first dimension free; its parameters must be final.
        eager: the same through the dynamic graph, what the result is checked against.
        probe: an example input.
        log: is told in one line what was chosen and why.
    """
    if not paddle.get_device().startswith("cpu"):
        log("features run on the GPU through the dynamic graph")
        return None
    try:
        with tempfile.TemporaryDirectory(prefix="vlzoo-") as folder:
            run = _predictor(net, probe, Path(folder))
        expected, found = eager(probe), run(probe)
    except Exception as error:  # whatever the export cannot do, the dynamic graph can
        reason = str(error).strip().splitlines() or [type(error).__name__]
        log(f"features run through the dynamic graph: the oneDNN program failed ({reason[-1]})")
        return None
    difference = float(np.abs(expected - found).max() / max(np.abs(expected).max(), 1e-12))
    if not difference <= TOLERANCE:
        log(f"features run through the dynamic graph: the oneDNN program is {difference:.1e} off")
        return None
    log(f"features run through a oneDNN program ({difference:.1e} from the dynamic graph)")
    return run


def _predictor(net: paddle.nn.Layer, probe: np.ndarray, folder: Path) -> Function:
    from paddle import inference

    spec = paddle.static.InputSpec([None, *probe.shape[1:]], str(probe.dtype), "x")
    prefix = str(folder / "net")
    paddle.jit.save(paddle.jit.to_static(net, input_spec=[spec], full_graph=True), prefix)
    suffix = ".json" if Path(prefix + ".json").exists() else ".pdmodel"  # Paddle 3, Paddle 2
    config = inference.Config(prefix + suffix, prefix + ".pdiparams")
    config.disable_gpu()
    config.enable_mkldnn()
    config.set_cpu_math_library_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    source = predictor.get_input_handle(predictor.get_input_names()[0])
    result = predictor.get_output_handle(predictor.get_output_names()[0])

    def run(array: np.ndarray) -> np.ndarray:
        source.copy_from_cpu(array)  # run([tensor]) would be shorter; it crashes in Paddle 2.6
        predictor.run()
        return result.copy_to_cpu()

    return run
