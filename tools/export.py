# SPDX-License-Identifier: Apache-2.0
"""Write a network as a deployable program: ``python tools/export.py -c C --weights W``.

The program is loaded again and compared with the network before it is called done.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine import cli, config, log, runtime
from engine.errors import ConfigError, guard

_TOLERANCE = 1e-4


def main() -> None:
    """Build, load the weights, export, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--model_name", help="model folder under models/; default: MODEL.name of the file")
    add("-c", "--config", help="YAML file; default: configs/<model_name>.yaml")
    add("-o", dest="override", action="append", default=[], metavar="A.b=c")
    add("--weights", help="default: WEIGHTS.path, else the published weights are downloaded")
    add("--use_gpu", type=cli.boolean, help="True, False, or automatic when not given")
    add("--batch_size", type=int, default=1, help="of the comparison; the program takes any")
    add("--save_dir", type=Path, default=Path("data/inference_model"), help="output folder")
    args = parser.parse_args()
    if not args.config and not args.model_name:
        parser.error("expected --config FILE or --model_name NAME, found neither")
    runtime.prepare()
    log.setup()
    path = args.config or f"configs/{args.model_name.casefold().replace('-', '_')}.yaml"
    cfg = config.load(path, args.override, args.model_name)
    runtime.select_device(args.use_gpu)
    from engine import evaluate

    model, _ = evaluate.load_model(cfg, args.weights)
    prefix = args.save_dir / f"{args.model_name or cfg.model_name}_model"
    difference = export(model, prefix, args.batch_size)
    print(f"save inference model at {args.save_dir.resolve()}")
    print(f"{prefix.name}: largest difference from the network {difference:.1e}")


def export(model: Any, prefix: Path, batch_size: int = 1) -> float:
    """Write ``prefix.*`` and return the largest difference of its outputs, relative to their size.

    Raises:
        ConfigError: the model has no exportable form, or the program computes other numbers.
    """
    import numpy as np
    import paddle

    if not hasattr(model, "exportable"):
        raise ConfigError(f"{type(model).__module__}: expected a model with exportable()")
    model.eval()
    layer, specs = model.exportable()
    prefix.parent.mkdir(parents=True, exist_ok=True)
    program = paddle.jit.to_static(layer, input_spec=specs, full_graph=True)
    paddle.jit.save(program, str(prefix))
    batch = model.example_batch(batch_size)
    inputs = [paddle.to_tensor(batch[spec.name]) for spec in specs]
    with paddle.no_grad():
        expected = model({s.name: x for s, x in zip(specs, inputs, strict=True)}).numpy()
        found = paddle.jit.load(str(prefix))(*inputs).numpy()
    difference = float(np.abs(expected - found).max() / max(1.0, np.abs(expected).max()))
    if not difference <= _TOLERANCE:
        raise ConfigError(f"{prefix}: the program's outputs are off by {difference:.1e}")
    return difference


if __name__ == "__main__":
    guard(main)
