"""What comes after training: a run's trunk and primary head as one module, predictions, and exports."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from maxl.experiments.data import normalise
from maxl.experiments.runs import trunks
from maxl.experiments.runs.build import resolve_device
from maxl.experiments.runs.files import write_at_once
from maxl.experiments.runs.folder import RunFolder, require_no_run_file
from maxl.experiments.runs.inputs import find_images, read_image, read_rows, read_text_rows
from maxl.experiments.runs.masks import Mask, predict_masks
from maxl.experiments.runs.measures import task_of
from maxl.experiments.runs.memory import is_out_of_memory
from maxl.experiments.runs.summary import require_model
from maxl.networks import head, infer_feature_dim
from maxl.presets import check_choice

FORMATS = {"safetensors": ".safetensors", "torch-export": ".pt2", "onnx": ".onnx"}
_BATCH = 256


class PrimaryModel(nn.Module):
    """Trunk and primary head; no auxiliary part is left.

    Args:
        trunk: From normalised inputs to features (N, D).
        primary_head: From features to outputs (N, C).
        primary_names: The C names of the classes, of the labels, or of the numbers to predict.
        input_shape: Shape of one input: (channels, height, width), or (D,) for features.
        mean, std: The run's normalisation, one value a channel, on the scale where white is 1; or one value a
            feature.
        feature_names: The columns of numeric features; None for anything else.
        task: "classification", "multi-label" or "regression".
        target_mean, target_std: What outputs of a regression are in its targets' units: output · std + mean.
    """

    mean: Tensor
    std: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        trunk: nn.Module,
        primary_head: nn.Module,
        *,
        primary_names: tuple[str, ...],
        input_shape: tuple[int, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        feature_names: tuple[str, ...] | None = None,
        task: str = "classification",
        target_mean: tuple[float, ...] = (0.0,),
        target_std: tuple[float, ...] = (1.0,),
    ) -> None:
        super().__init__()
        self.task = task
        self.trunk = trunk
        self.primary_head = primary_head
        self.primary_names = primary_names
        self.input_shape = input_shape
        self.feature_names = feature_names
        shape = (-1, *[1] * (len(input_shape) - 1))
        # Float32 has seven digits: of a column of Unix seconds it would keep the day and lose the hour.
        dtype = torch.float32 if feature_names is None else torch.float64
        self.register_buffer("mean", torch.tensor(mean, dtype=dtype).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=dtype).view(shape), persistent=False)
        for name, values in (("target_mean", target_mean), ("target_std", target_std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64), persistent=False)

    @property
    def takes_images(self) -> bool:
        """Whether inputs are images rather than features."""
        return len(self.input_shape) == 3

    def forward(self, x: Tensor) -> Tensor:
        """Primary outputs, shape (N, C), of segmentation (N, C, H, W): logits, float32, or numbers in their units, float64.

        Args:
            x: Images of shape ``(N, *input_shape)``, uint8 or floats in [0, 1], or numeric features, float64, as they
                stand in the table: both are normalised here. Features of text as the run's data set gives them.

        Raises:
            ValueError: if the samples have another shape than the run's.
        """
        return self.in_units(self.outputs(self.normalise(x)))

    def outputs(self, x: Tensor) -> Tensor:
        """Of trunk and head, (N, C) or (N, C, H, W), from what the trunk takes."""
        features: Tensor = self.trunk(x)
        if self.task != "segmentation":
            outputs: Tensor = self.primary_head(features)
            return outputs
        return self.primary_head(features.movedim(1, -1)).movedim(-1, 1)  # type: ignore[no-any-return]

    def in_units(self, outputs: Tensor) -> Tensor:
        """Outputs of the head as those of ``forward``; both on the device of the model's buffers."""
        return outputs if self.task != "regression" else outputs.double() * self.target_std + self.target_mean

    def normalise(self, x: Tensor) -> Tensor:
        """What the trunk takes, float32, from what ``forward`` does."""
        if tuple(x.shape[1:]) != self.input_shape:
            raise ValueError(
                f"samples need the run's shape (N, {', '.join(map(str, self.input_shape))}); "
                f"got {tuple(x.shape)}"
            )
        if x.dtype == torch.uint8:
            return normalise(x, self.mean.flatten().tolist(), self.std.flatten().tolist())
        return ((x - self.mean) / self.std).float()  # features of text: by 0 and 1


class Prediction(NamedTuple):
    """The likeliest class of an image, or of a row of a table (counted from 0)."""

    file: Path | int
    name: str
    probability: float


class Numbers(NamedTuple):
    """What a regression says of an image or row: a number for each target, in the target's units."""

    file: Path | int
    values: dict[str, float]


class Labels(NamedTuple):
    """The probability of each label of an image or row; it has those of at least one half."""

    file: Path | int
    probabilities: dict[str, float]


Predicted = Prediction | Numbers | Labels | Mask


def load_model(run: Path, *, trust: bool = False) -> PrimaryModel:
    """The model of a finished run, in eval mode on the CPU; auxiliary heads are not built.

    Args:
        run: Folder of the run.
        trust: Call a trunk ``module:function`` that the folder's config names.

    Raises:
        ValueError: if the folder holds no run, an unfinished or a damaged one, or names code and is not trusted.
    """
    folder = RunFolder(run)
    if not folder.started:
        raise ValueError(f"a model comes from the folder of a run; {run} holds none")
    if not folder.finished:
        raise ValueError(
            f"a model comes from a finished run; {run} is not: continue it with maxl train --resume {run}"
        )
    summary, config = folder.read_summary(), folder.read_config(trust=trust)
    require_model(summary, folder.summary)
    shape = tuple(summary["input_shape"])
    features, targets = summary.get("features"), summary.get("targets")
    trunk = trunks.build(
        trunks.for_task(config.trunk, task_of(summary)), shape, dense=task_of(summary) == "segmentation"
    )
    width = infer_feature_dim(trunk)
    assert width is not None  # every trunk that is built by name states it
    model = PrimaryModel(
        trunk,
        head(width, len(summary["primary_names"])),
        primary_names=tuple(summary["primary_names"]),
        input_shape=shape,
        mean=tuple((features or summary)["mean"]),
        std=tuple((features or summary)["std"]),
        feature_names=features and tuple(features["names"]),
        task=task_of(summary),
        **{f"target_{name}": tuple(targets[name]) for name in ("mean", "std") if targets},
    )
    folder.verify(folder.model, summary)
    _load_weights(model, folder.model)
    return model.eval()


def _load_weights(model: nn.Module, path: Path) -> None:
    """ValueError unless a file holds the weights of a model, finite and of its shapes and kinds."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ValueError(f"{path} needs to be a file; it is missing: train the run again")
    try:
        weights = load_file(path)
        model.load_state_dict(weights)
    except (SafetensorError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not hold the weights of the run's model: {reason[:200]}") from error
    for name, expected in model.state_dict().items():
        if weights[name].dtype != expected.dtype or not bool(weights[name].isfinite().all()):
            raise ValueError(f"{path} needs finite weights of kind {expected.dtype}; {name} has others")


def predict(
    run: Path, source: Path, *, device: str = "cpu", trust: bool = False
) -> list[Prediction] | list[Numbers] | list[Labels] | list[Mask]:
    """The likeliest class of each image or row, with its probability; or its numbers, or its labels' probabilities.

    Images are brought to the run's size (the centre of the image, scaled) and channels.

    Args:
        run: Folder of a finished run.
        source: For images, a folder, searched with its subfolders, or one image file; for features and text, a
            CSV or parquet file with the columns of the training table (labels are not needed); for text also a
            .txt file with a text a line.
        device: Where to compute.
        trust: As for ``load_model``.

    Returns:
        One prediction a file, sorted by path, or a row; probabilities in [0, 1], numbers in the units of the targets.

    Raises:
        FileNotFoundError: if ``source`` does not exist.
        PermissionError: if a folder below it cannot be read.
        ValueError: if ``source`` is not of the run's kind, holds nothing or cannot be read, or the run is
            unfinished.
    """
    model = load_model(run, trust=trust)
    if not source.exists():
        raise FileNotFoundError(
            f"predict needs images, or a table for a run on features; {source} does not exist"
        )
    if model.task == "segmentation":
        return list(predict_masks(model, find_images(source), resolve_device(device)))
    names: list[Path | int]
    if model.takes_images:
        files = find_images(source)
        names, parts = [*files], (files[start : start + _BATCH] for start in range(0, len(files), _BATCH))
        batches = (torch.cat([read_image(file, model.input_shape) for file in part]) for part in parts)
    else:
        if model.feature_names is None:
            rows = read_text_rows(source, RunFolder(run), model.input_shape[0])
        else:
            rows = read_rows(source, model.feature_names)
        names = [*range(len(rows))]
        batches = (rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH))
    where = resolve_device(device)
    trunk, primary_head = model.trunk.to(where), model.primary_head.to(where)
    done: list[Tensor] = []
    for x in batches:
        with torch.no_grad():
            # Normalised before it moves, and back before it gets units: not every device computes in float64.
            outputs = _read(model, primary_head(trunk(model.normalise(x).to(where))).float().cpu())
        finite = outputs.isfinite().all(1)
        if not finite.all():
            odd = names[sum(map(len, done)) + int((~finite).nonzero()[0])]
            raise ValueError(
                f"predict needs samples like those of training; {'row ' if isinstance(odd, int) else ''}{odd} of "
                f"{source} is so far from them that the model gives no number for it"
            )
        done.append(outputs)
    every = zip(names, torch.cat(done).tolist(), strict=True)
    if model.task == "regression":
        return [Numbers(name, dict(zip(model.primary_names, row, strict=True))) for name, row in every]
    if model.task == "multi-label":
        return [Labels(name, dict(zip(model.primary_names, row, strict=True))) for name, row in every]
    return [Prediction(name, model.primary_names[int(c)], probability) for name, (probability, c) in every]


def _read(model: PrimaryModel, outputs: Tensor) -> Tensor:
    """What a prediction holds: (probability, class) in each row, a probability a label, or the numbers."""
    if model.task == "classification":
        top = outputs.softmax(1).max(1)
        return torch.stack([top.values.double(), top.indices.double()], 1)
    return outputs.sigmoid() if model.task == "multi-label" else model.in_units(outputs)


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
