"""A run's model in formats for use elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from maxl.experiments.runs.files import write_at_once
from maxl.experiments.runs.folder import RunFolder, require_no_run_file
from maxl.experiments.runs.model import PrimaryModel, load_model
from maxl.presets import check_choice

FORMATS = {"safetensors": ".safetensors", "torch-export": ".pt2", "onnx": ".onnx"}


def export(run: Path, format: str, out: Path, *, trust: bool = False) -> Path:
    """Writes a run's model for use elsewhere, and beside it a JSON file with what goes with it.

    | format | file | input |
    |---|---|---|
    | safetensors | weights of trunk and primary head | as for the trunk: normalise with the JSON's mean, std |
    | torch-export | .pt2 program for ``torch.export.load`` | float32 in [0, 1], or raw features, float64; any batch size |
    | onnx | ONNX model, input "x", output "logits" | likewise |

    Outputs are logits. A program of a regression gives its numbers in their units, float64; weights alone give
    standardised ones, and the JSON's targets say by which mean and std.

    A program is loaded again and compared with the model before anything is written.

    Args:
        run: Folder of a finished run.
        format: See the table.
        out: File to write; its suffix is that of the format.
        trust: As for ``load_model``.

    Returns:
        The JSON file: task, names of classes, labels or targets, shape and normalisation of the inputs, and versions.

    Raises:
        ValueError: if the format is unknown, the suffix is another format's, packages are missing, the run is
            unfinished, or a file of a run would be replaced.
    """
    check_choice("--format", format, tuple(FORMATS))
    if out.suffix != FORMATS[format]:
        raise ValueError(f"--out needs to end in {FORMATS[format]} for {format}; got {out}")
    sidecar = out.with_suffix(".json")
    for file in (out, sidecar):
        require_no_run_file(file)
    model = load_model(run, trust=trust)
    folder = RunFolder(run)
    if format == "safetensors":
        content = folder.model.read_bytes()
    else:
        with TemporaryDirectory() as temporary:
            partial = Path(temporary, "model" + out.suffix)
            (_torch_export if format == "torch-export" else _onnx)(model, partial)
            content = partial.read_bytes()
    summary = folder.read_summary()
    kept = (
        "method",
        "seed",
        "data",
        "task",
        "trunk",
        "primary_names",
        "targets",
        "input_shape",
        "mean",
        "std",
        "features",
        "versions",
    )
    described = {name: summary.get(name) for name in kept}
    described["normalisation_inside"] = format != "safetensors"
    described["input_dtype"] = str(_example(model, 1).dtype).removeprefix("torch.")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_at_once(sidecar, (json.dumps(described, indent=2) + "\n").encode())
    write_at_once(out, content)
    return sidecar


def _torch_export(model: PrimaryModel, path: Path) -> None:
    """torch.export with any batch size."""
    program = torch.export.export(model, (_example(model, 2),), dynamic_shapes=_dynamic_batch())
    torch.export.save(program, path)
    loaded: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    _compare(model, loaded)


def _onnx(model: PrimaryModel, path: Path) -> None:
    """ONNX with any batch size."""
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ValueError(
            f'--format onnx needs {" and ".join(missing)}: pip install "maxl-torch[onnx]", or choose torch-export'
        )
    torch.onnx.export(
        model,
        (_example(model, 2),),
        path,
        input_names=["x"],
        output_names=["logits"],
        dynamic_shapes=_dynamic_batch(),
        dynamo=True,
        external_data=False,  # one file
        verbose=False,
    )
    evaluator = import_module("onnx.reference").ReferenceEvaluator(str(path))
    _compare(model, lambda x: torch.from_numpy(evaluator.run(None, {"x": x.numpy()})[0]))


def _compare(model: PrimaryModel, program: Callable[[Tensor], Tensor]) -> None:
    """RuntimeError unless a program gives the model's logits, on a batch size it was not exported with."""
    x = _example(model, 3)
    with torch.no_grad():
        expected, got = ((z - model.target_mean) / model.target_std for z in (model(x), program(x)))
    if got.shape != expected.shape or not torch.allclose(got, expected, rtol=1e-3, atol=1e-4):
        raise RuntimeError(
            "the exported program's logits are not the model's: this is a mistake of maxl or torch"
        )


def _example(model: PrimaryModel, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, *model.input_shape, generator=generator)
    return x if model.feature_names is None else x.double()


def _dynamic_batch() -> dict[str, Any]:
    return {"x": {0: torch.export.Dim("batch")}}
