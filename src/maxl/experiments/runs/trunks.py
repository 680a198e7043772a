"""Trunks by name: networks from an input to features, which both heads share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from maxl.experiments.data import MixedShape, image_shape
from maxl.experiments.runs.code import importable, require_tensors
from maxl.experiments.runs.dense import DenseTrunk
from maxl.experiments.runs.libraries import (
    hub_config,
    hub_model,
    model_layers,
    takes_text,
    timm_model,
    torchvision_model,
    unknown,
)
from maxl.experiments.runs.memory import is_out_of_memory
from maxl.experiments.runs.mixed import MixedTrunk
from maxl.experiments.runs.names import is_code, library_of
from maxl.experiments.runs.token_trunk import TokenTrunk
from maxl.experiments.runs.unet import UNet
from maxl.finetuning import ordered
from maxl.trunks import Features, ResidualTrunk

if TYPE_CHECKING:
    from maxl.experiments.runs.config import RunConfig

# Widths of the convolutions between the five poolings; Simonyan and Zisserman 2015, table 1 (A, B, D, E).
_VGG_BLOCKS: dict[str, tuple[tuple[int, ...], ...]] = {
    "vgg11": ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),
    "vgg13": ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2),
    "vgg16": ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    "vgg19": ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}
_VGG_MIN_SIDE = 32  # 2 ** 5: each of the five pools needs two pixels to halve

NAMES = (*_VGG_BLOCKS, "convnet4", "mlp", "resmlp", "unet")
AUTO = "auto"
_LARGE = 64  # pixels a side from which images are photographs as a rule


class ConvTrunk(nn.Module):
    """Blocks of 3x3 convolutions with batch norm and ReLU, each block ended by a 2x2 max pool.

    Features are the average over what is left of the image: a single pixel for VGG at 32x32. A side of one
    pixel cannot be halved, so from there on pools are left out, and small images such as 8x8 digits pass
    through a network made for larger ones. Weights start from PyTorch's defaults: in a short trial with the
    paper's SGD, VGG-16 learned faster from these than from Kaiming's initialisation by fan-out.

    Args:
        input_shape: (C, H, W) of the images.
        blocks: The widths of the convolutions, block by block.

    Attributes:
        feature_dim: The width of the features, D.

    Shape: (N, C, H, W) to (N, D).
    """

    def __init__(self, input_shape: Sequence[int], blocks: Sequence[Sequence[int]]) -> None:
        super().__init__()
        channels, height, width = input_shape
        layers: list[nn.Module] = []
        for block in blocks:
            for out_channels in block:
                # Batch norm subtracts the mean, so a bias of the convolution would do nothing.
                layers += [
                    nn.Conv2d(channels, out_channels, kernel_size=3, padding=1, bias=False),
                    nn.BatchNorm2d(out_channels),
                    nn.ReLU(inplace=True),
                ]
                channels = out_channels
            if min(height, width) > 1:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
        self.layers = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.feature_dim = channels

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.pool(self.layers(x))
        return features.flatten(1)

    def parameter_layers(self) -> list[list[str]]:
        """Names of parameters, a convolution and its batch norm a layer."""
        return ordered(self, ["layers"])


class MLPTrunk(nn.Module):
    """A perceptron on the flattened input, a ReLU after each layer.

    Args:
        input_shape: The shape of one sample, of any rank.
        hidden: The widths of the layers.

    Attributes:
        feature_dim: The width of the features, D, that is of the last layer.

    Shape: ``(N, *input_shape)`` to (N, D).
    """

    def __init__(self, input_shape: Sequence[int], hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__()
        widths = (math.prod(input_shape), *hidden)
        layers: list[nn.Module] = [nn.Flatten()]
        for width_in, width_out in pairwise(widths):
            layers += [nn.Linear(width_in, width_out), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.feature_dim = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layers(x)
        return features

    def parameter_layers(self) -> list[list[str]]:
        """Names of parameters, a linear map a layer."""
        return ordered(self, ["layers"])


class MeasuredTrunk(nn.Module):
    """A network from inputs to features whose width is found by trying: a model of timm, or one's own.

    Args:
        model: From ``(N, *input_shape)`` to (N, D).
        input_shape: Shape of one sample; one pass of zeros tells the width of the features. timm's own
            attribute does not for models with a hidden layer in the head.
        dense: Whether it gives features for each pixel, (N, D, H, W).

    Attributes:
        feature_dim: The width of the features, D.

    Shape: ``(N, *input_shape)`` to (N, D).

    Raises:
        ValueError: if the model cannot take such samples, or gives something else than features.
    """

    def __init__(self, model: nn.Module, input_shape: Sequence[int], *, dense: bool = False) -> None:
        super().__init__()
        self.model = model
        model.eval()  # the pass of zeros leaves batch norm's statistics alone
        try:
            with torch.no_grad():
                features: Tensor = model(torch.zeros(1, *input_shape))
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise ValueError(
                f"{type(model).__name__} cannot take samples of shape {tuple(input_shape)}: {error}; "
                "scale the images (--image-size) or choose another trunk"
            ) from error
        pixels = tuple(input_shape[1:]) if dense else ()
        if not isinstance(features, Tensor) or features.ndim < 2 or tuple(features.shape[2:]) != pixels:
            what = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            shape = f"(N, D, {', '.join(map(str, pixels))})" if dense else "(N, D)"
            raise ValueError(
                f"a trunk gives features of shape {shape}; {type(model).__name__} gives {what}: --trunk-output says where "
                "they are in several outputs, --trunk-pool how those of tokens or pixels become a sample's"
            )
        model.train()
        self.feature_dim = features.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.model(x)
        return features

    def parameter_layers(self) -> list[list[str]]:
        """Names of parameters by layer, as the model says it, or the library it is of."""
        inside, before = _unwrapped(self)
        return [[before + name for name in layer] for layer in model_layers(inside)]


def bare(trunk: nn.Module) -> nn.Module:
    """The network as its author made it, under whose names for parts and weights it is known elsewhere."""
    return _unwrapped(trunk)[0]


def prefix(trunk: nn.Module) -> str:
    """What the names of ``bare``'s parts begin with in the trunk."""
    return _unwrapped(trunk)[1]


def architecture(trunk: nn.Module) -> dict[str, Any] | None:
    """Of a trunk that is a model of transformers, as JSON; None for others, which their names build."""
    config: Any = getattr(bare(trunk), "config", None)
    trunk = trunk.image if isinstance(trunk, MixedTrunk) else trunk
    if not isinstance(trunk, MeasuredTrunk | TokenTrunk) or not hasattr(config, "to_dict"):
        return None
    return {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}


def random_inputs(
    trunk: nn.Module, count: int, input_shape: Sequence[int], generator: torch.Generator | None = None
) -> Tensor:
    """Random samples of a kind that a trunk takes: standard normal numbers, or tokens."""
    if isinstance(trunk, TokenTrunk):
        return trunk.random_tokens(count, generator)
    return torch.randn(count, *input_shape, generator=generator)


def _unwrapped(trunk: nn.Module) -> tuple[nn.Module, str]:
    if isinstance(trunk, MixedTrunk):
        inside, before = _unwrapped(trunk.image)
        return inside, f"image.{before}"
    if isinstance(trunk, (MeasuredTrunk, DenseTrunk)):
        inside, before = _unwrapped(trunk.model)
        return inside, f"model.{before}"
    if isinstance(trunk, TokenTrunk):
        return trunk.features.module, "features.module."
    return (trunk.module, "module.") if isinstance(trunk, Features) else (trunk, "")


@dataclass(frozen=True)
class Words:
    """What a config says of a trunk beside its name.

    Attributes:
        output, pool: Where features are in the model's outputs, and how they become a sample's; as for ``Features``.
        architecture: Of a model of transformers, as its JSON; None to look it up by name.
    """

    output: str | None = None
    pool: str | None = None
    architecture: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, config: RunConfig) -> Words:
        """Those of a run."""
        return cls(config.trunk_output, config.trunk_pool)

    def picking(self, model: nn.Module) -> nn.Module:
        """The model, or a module that picks features among its outputs."""
        if self.output is None and self.pool is None:
            return model
        output = int(self.output) if self.output is not None and self.output.isdigit() else self.output
        return Features(model, output, pool=self.pool)  # type: ignore[arg-type]  # checked with the config


def chosen(name: str, task: str, input_shape: Sequence[int]) -> str:
    """The trunk of a run: as named, or with "auto" one that suits the task and the size of the inputs."""
    if task == "segmentation" and name in (AUTO, "convnet4"):  # which has no pixels left to label
        return "unet"
    if name != AUTO:
        return name
    if (shape := image_shape(input_shape)) is None:
        return "resmlp"
    return "resnet18" if min(shape[1:]) >= _LARGE else "convnet4"


def build_for(name: str, task: str, input_shape: Sequence[int], words: Words | None = None) -> nn.Module:
    """The trunk of a run, freshly initialised: ``chosen``, then built for each pixel or for a whole sample.

    Raises:
        ValueError: as ``build``.
    """
    return build(chosen(name, task, input_shape), input_shape, dense=task == "segmentation", words=words)


def build(
    name: str,
    input_shape: Sequence[int],
    *,
    width: int = 64,
    dense: bool = False,
    words: Words | None = None,
) -> nn.Module:
    """A trunk by name, freshly initialised.

    | name | network | features |
    |---|---|---|
    | vgg11, vgg13, vgg16, vgg19 | VGG with batch norm, for images of 32x32 and more | 512 |
    | convnet4 | four blocks of one 3x3 convolution, for images of any size | `width` |
    | mlp | two hidden layers, for features or flattened images | 256 |
    | resmlp | residual blocks of two layers, each normalised, for features | 128 |
    | unet | a small U-Net, for segmentation: features for each pixel | 32 |
    | any model of timm, also as timm:NAME | untrained, its classifier removed | its own; with a decoder 64 a pixel |
    | torchvision:NAME | untrained, its classifier's last layer removed | its own |
    | hf:NAME, or hf:FOLDER | an encoder of transformers for images or for tokens of texts, untrained | its own |
    | module:function | what your function makes of `input_shape` | its own |

    Args:
        name: See the table.
        input_shape: Shape of one sample: (C, H, W), (D,) for features, or (L,) for tokens of texts. Of a ``MixedShape`` the
            name is that of the image trunk, beside which residual blocks take the columns; see ``MixedTrunk``.
        width: Width of convnet4.
        dense: Whether features are for each pixel, (N, D, H, W).
        words: What else is said of it.

    Returns: a module from ``(N, *input_shape)`` to (N, D), with the attribute `feature_dim` = D.

    Raises:
        ValueError: unknown name; features given to a network for images; images too small for it; a function
            that cannot be imported or called, or makes no trunk.
    """
    if isinstance(input_shape, MixedShape):
        image = build(name, input_shape.image, width=width, dense=dense, words=words)
        return MixedTrunk(image, _residual(input_shape.columns), input_shape)
    words = words or Words()
    library, model = library_of(name)
    if is_code(name):
        return _build_own(name, input_shape, words, dense=dense)
    if (words.output is not None or words.pool is not None) and library != "hf":
        flag = "--trunk-output" if words.output is not None else "--trunk-pool"
        raise ValueError(
            f"{flag} goes with --trunk module:function or hf:NAME; '{name}' gives features: drop it"
        )
    if (dense and (name in NAMES or library in ("torchvision", "hf"))) != (name == "unet"):
        raise ValueError(
            f"trunk '{name}' gives features for {'each pixel' if name == 'unet' else 'a whole sample'}; the task needs them for "
            f"{'each pixel: use unet, a model of timm' if dense else 'a whole sample: use convnet4 or mlp'}, or module:function"
        )
    if name == "mlp":
        return MLPTrunk(input_shape)
    if name == "resmlp":
        if len(input_shape) == 3:
            raise ValueError(
                f"'resmlp' needs features of shape (D,); got images of shape {tuple(input_shape)}: use 'mlp' or 'convnet4'"
            )
        return _residual(math.prod(input_shape))
    if library == "hf":
        return _build_hub(model, input_shape, words)
    _require_images(name, input_shape)
    if name == "unet":
        return UNet(input_shape)
    if name == "convnet4":
        return ConvTrunk(input_shape, ((width,),) * 4)
    if name in _VGG_BLOCKS:
        if min(input_shape[1:]) < _VGG_MIN_SIDE:
            raise ValueError(
                f"'{name}' halves the image five times and needs {_VGG_MIN_SIDE} pixels a side; "
                f"got {input_shape[1]}x{input_shape[2]}: use 'convnet4', or scale the images (--image-size)"
            )
        return ConvTrunk(input_shape, _VGG_BLOCKS[name])
    if library == "torchvision":
        return MeasuredTrunk(torchvision_model(model), input_shape)
    import timm

    if not timm.is_model(model):
        more = (
            f"; known: {', '.join(NAMES)}, any model of timm, torchvision:NAME, hf:NAME, or module:function"
        )
        raise ValueError(unknown(name, [*NAMES, *timm.list_models()], more))
    built = timm_model(model, input_shape)
    return DenseTrunk(built, input_shape) if dense else MeasuredTrunk(built, input_shape)


def _residual(inputs: int) -> ResidualTrunk:
    return ResidualTrunk(inputs, width=128, depth=2, dropout=0.1)


def _require_images(name: str, input_shape: Sequence[int]) -> None:
    if len(input_shape) != 3:
        raise ValueError(
            f"'{name}' needs images of shape (C, H, W); got samples of shape {tuple(input_shape)}: use 'resmlp' or 'mlp'"
        )


def _build_hub(name: str, input_shape: Sequence[int], words: Words) -> nn.Module:
    """Of transformers; by default the mean over the tokens, or pixels, of the last layer."""
    model = hub_model(words.architecture or hub_config(name))
    output, pool = words.output or "last_hidden_state", words.pool
    picked = Words(output, pool if words.output is not None or pool is not None else "mean").picking(model)
    if not takes_text(model):
        _require_images(f"hf:{name}", input_shape)
        return MeasuredTrunk(picked, input_shape)
    if len(input_shape) != 1:
        raise ValueError(
            f"'hf:{name}' reads texts; got samples of shape {tuple(input_shape)}: choose another trunk"
        )
    assert isinstance(picked, Features)  # an output is named
    return TokenTrunk(picked, input_shape)


def _build_own(name: str, input_shape: Sequence[int], words: Words, *, dense: bool) -> nn.Module:
    module, _, function = name.partition(":")
    try:
        with importable(Path.cwd()):
            make = getattr(import_module(module), function)
        model = make(tuple(input_shape))
    except Exception as error:  # whatever the user's code raises
        raise ValueError(
            f"trunk '{name}' calls {function}(input_shape) of the module '{module}', in this folder or installed; "
            f"that fails with {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"trunk '{name}' needs to make a torch.nn.Module; got {type(model).__name__}")
    require_tensors(model, name)
    return MeasuredTrunk(words.picking(model), input_shape, dense=dense)
