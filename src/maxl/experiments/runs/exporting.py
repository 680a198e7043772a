"""A run's model in formats for use elsewhere."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from maxl.experiments.data import NO_TOKEN, MixedShape
from maxl.experiments.runs.files import write_at_once
from maxl.experiments.runs.folder import RunFolder, require_no_run_file
from maxl.experiments.runs.inputs import column_features
from maxl.experiments.runs.memory import is_out_of_memory
from maxl.experiments.runs.model import PrimaryModel, load_model
from maxl.experiments.runs.trunks import random_inputs
from maxl.presets import check_choice

_CHANNELS = {1: ["grey"], 3: ["red", "green", "blue"]}
FORMATS = {"safetensors": ".safetensors", "torch-export": ".pt2", "onnx": ".onnx"}


def export(run: Path, format: str, out: Path, *, trust: bool = False) -> Path:
    """Writes a run's model for use elsewhere, and beside it a JSON file with what goes with it.

    | format | file | input |
    |---|---|---|
    | safetensors | weights of trunk and primary head | as for the trunk: normalise with the JSON's mean, std |
    | torch-export | .pt2 program for ``torch.export.load`` | float32 in [0, 1], or raw features, float64; any batch size |
    | onnx | ONNX model, input "x", output "logits" | likewise |

    Of images beside columns an input is one row, which the JSON's input_parts take apart: the features of the columns,
    then the pixels. A run on texts as tokens takes tokens in every format, int64 of shape (N, L), and its tokenizer lies
    beside the file, too.

    The JSON file has the name of the other with .json behind it: formats side by side keep one each.

    Outputs are logits. A program of a regression gives its numbers in their units, float64; weights alone give
    standardised ones, and the JSON's targets say by which mean and std.

    A program is loaded again and compared with the model before anything is written.

    Args:
        run: Folder of a finished run.
        format: See the table.
        out: File to write; its suffix is that of the format.
        trust: As for ``load_model``.

    Returns:
        The JSON file: task, names of classes, labels or targets, shape, layout, range and normalisation of the inputs,
        what the outputs are, and versions.

    Raises:
        ValueError: if the format is unknown, the suffix is another format's, packages are missing, the run is
            unfinished, a file of a run would be replaced, the model cannot become a program, or the program does not compute
            what the model does.
    """
    check_choice("--format", format, tuple(FORMATS))
    if out.suffix != FORMATS[format]:
        raise ValueError(f"--out needs to end in {FORMATS[format]} for {format}; got {out}")
    sidecar = out.with_name(out.name + ".json")
    beside = out.with_name(out.name + ".tokenizer.json")
    for file in (out, sidecar, beside):
        require_no_run_file(file)
        if file.is_dir():
            raise ValueError(f"--out needs a file; {file} is a folder")
    model = load_model(run, trust=trust)
    folder = RunFolder(run)
    if format == "safetensors":
        content = folder.model.read_bytes()
    else:
        with TemporaryDirectory() as temporary:
            partial = Path(temporary, "model" + out.suffix)
            _checked(_torch_export if format == "torch-export" else _onnx, model, partial, format)
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
        "image_shape",
        "image_column",
        "mean",
        "std",
        "features",
        "columns",
        "tokens",
        "versions",
    )
    described: dict[str, Any] = {name: summary.get(name) for name in kept}
    described["normalisation_inside"] = format != "safetensors"
    described |= {"format": format, **_described(model, inside=format != "safetensors")}
    if isinstance(model.input_shape, MixedShape):
        described["input_parts"] = _parts(model.input_shape, folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    if model.tokens is not None:
        described["tokens"] |= {"padding": NO_TOKEN, "kinds": model.tokens.kinds, "tokenizer": beside.name}
        write_at_once(beside, model.tokens.to_bytes())
    write_at_once(sidecar, (json.dumps(described, indent=2) + "\n").encode())
    write_at_once(out, content)
    return sidecar


def _described(model: PrimaryModel, *, inside: bool) -> dict[str, Any]:
    """What goes in and comes out; ``inside``: whether the program normalises and gives units itself."""
    classes = len(model.primary_names)
    text = not model.takes_images and model.feature_names is None
    described: dict[str, Any] = {
        "input_dtype": "float32" if not inside else str(_example(model, 1).dtype).removeprefix("torch."),
    }
    if model.takes_images:
        described |= {
            "input_layout": "NCHW",
            "input_channels": _CHANNELS.get(model.input_shape[0]),
            "input_range": [0.0, 1.0],
            "input": "pixels divided by 255" + ("" if inside else ", then (x - mean) / std by channel"),
        }
    elif model.image_shape is not None:
        described |= {
            "input_layout": "ND",
            "input_range": None,
            "input": "the features of the columns, as maxl predict makes them, then the pixels divided by 255, channel by channel "
            "and row by row" + ("" if inside else ", then (x - mean) / std of pixels by channel"),
        }
    elif model.tokens is not None:
        described |= {
            "input_dtype": "int64",
            "input_layout": "NL",
            "input_range": [NO_TOKEN, model.tokens.kinds - 1],
            "input": "numbers of tokens, as the tokenizer of tokens.tokenizer gives them, which cuts texts as the run does; "
            "then tokens.padding up to tokens.length",
        }
    else:
        columns = (
            "features of text or columns, as maxl predict makes them"
            if text
            else "the columns of features.names, in order"
        )
        described |= {
            "input_layout": "ND",
            "input_range": None,
            "input": columns
            + ("" if inside or text else ", then (x - mean) / std of features by column, in float64"),
        }
    units = model.task == "regression" and inside
    outputs = {
        "classification": "logits; their softmax over axis 1 are probabilities",
        "multi-label": "logits; their sigmoids are probabilities",
        "segmentation": "logits of each pixel; their softmax over axis 1 are probabilities",
        "regression": "numbers in their units"
        if units
        else "standardised numbers: times std plus mean of targets",
    }
    pixels = list(model.input_shape[1:]) if model.task == "segmentation" else []
    return described | {
        "output": outputs[model.task],
        "output_dtype": "float64" if units else "float32",
        "output_shape": ["N", classes, *pixels],
    }


def _parts(shape: MixedShape, folder: RunFolder) -> list[dict[str, Any]]:
    """Where the numbers of an image beside columns lie in a row of inputs."""
    names = column_features(folder, shape.columns).transformer.get_feature_names_out()
    return [
        {"what": "features of columns", "start": 0, "stop": shape.columns, "names": [*map(str, names)]},
        {
            "what": "pixels",
            "start": shape.columns,
            "stop": shape[0],
            "shape": list(shape.image),
            "layout": "CHW",
            "channels": _CHANNELS.get(shape.image[0]),
            "range": [0.0, 1.0],
        },
    ]


def _checked(
    write: Callable[[PrimaryModel, Path], None], model: PrimaryModel, path: Path, format: str
) -> None:
    """What fails in a user's trunk, or in the program that was made of it, as one sentence."""
    try:
        with _quiet():
            write(model, path)
    except Exception as error:  # whatever exporters and runtimes raise
        if is_out_of_memory(error) or type(error) is ValueError:  # said already
            raise
        first: BaseException = error
        while first.__cause__ is not None:
            first = first.__cause__
        said = next(iter(str(first).strip().splitlines()), "")[:200].rstrip(".")
        raise ValueError(
            f"the model cannot be exported as {format}: {type(first).__name__}: {said}; choose another --format, "
            "safetensors for the weights alone"
        ) from error


def _torch_export(model: PrimaryModel, path: Path) -> None:
    """torch.export with any batch size."""
    program = torch.export.export(model, (_example(model, 2),), dynamic_shapes=_dynamic_batch())
    torch.export.save(program, path)
    loaded: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    _compare(model, loaded)


def _onnx(model: PrimaryModel, path: Path) -> None:
    """ONNX with any batch size, run by ONNX Runtime, as its users will."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
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
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    _compare(model, lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0]))


@contextmanager
def _quiet() -> Iterator[None]:
    """Within: exporters tell nothing of what they try; what they write is compared, and what they raise is said."""
    before, nowhere = logging.root.manager.disable, StringIO()
    logging.disable(logging.ERROR)
    try:
        with redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    finally:
        logging.disable(before)


def _compare(model: PrimaryModel, program: Callable[[Tensor], Tensor]) -> None:
    """ValueError unless a program gives the model's outputs, on batch sizes that it was not exported with."""
    for batch in (1, 5):
        x = _example(model, batch)
        with torch.no_grad():
            expected, got = model(x), program(x)
        if got.shape == expected.shape and got.dtype == expected.dtype:
            expected, got = ((z - model.target_mean) / model.target_std for z in (expected, got))
            if torch.allclose(got, expected, rtol=1e-3, atol=1e-4):
                continue
            told = f"they differ by up to {float((got - expected).abs().max()):.3g}"
        else:
            told = f"they are {got.dtype} of shape {tuple(got.shape)}, not {expected.dtype} of {tuple(expected.shape)}"
        raise ValueError(
            f"the exported program's outputs are not the model's, {told}: nothing is written; choose another --format"
        )


def _example(model: PrimaryModel, batch: int) -> Tensor:
    """Samples like those of training: pixels of all values, features about their means, or any tokens."""
    generator = torch.Generator().manual_seed(0)
    if model.feature_names is None and model.takes_images:
        return torch.rand(batch, *model.input_shape, generator=generator)
    x = random_inputs(model.trunk, batch, model.input_shape, generator)
    if isinstance(model.input_shape, MixedShape):
        x[:, model.input_shape.columns :].uniform_(generator=generator)
    return x if model.feature_names is None else x.double() * model.std + model.mean


def _dynamic_batch() -> dict[str, Any]:
    return {"x": {0: torch.export.Dim("batch")}}
