"""Models of timm, torchvision and transformers as trunks: what they are, the weights that come with them, their inputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from maxl.experiments.runs.memory import is_out_of_memory
from maxl.experiments.runs.weights_file import Fitted, fit
from maxl.finetuning import parameter_layers
from maxl.presets import did_you_mean

_CLASSES = 1000  # of ImageNet, on which torchvision's classifiers are trained


@dataclass(frozen=True)
class OwnInputs:
    """Images as a model was trained on them.

    Attributes:
        channels, side: Their channels and pixels a side; None for a side that is not stated.
        mean, std: One value a channel, of pixels in [0, 1].
    """

    channels: int
    side: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]


def timm_model(name: str, input_shape: Sequence[int], *, pretrained: bool = False) -> nn.Module:
    """A model of timm without its classifier, for images of a shape (C, H, W).

    Raises:
        ValueError: if timm does not know it, or has no weights for it.
        Exception: whatever fetching weights raises.
    """
    import timm

    if not timm.is_model(name):
        raise ValueError(unknown(name, timm.list_models()))
    if "." in name:
        _timm_cfg(name)  # which weights are meant, though they are not loaded
    if pretrained and not _timm_cfg(name).has_weights:
        known = timm.list_pretrained(f"{name.split('.')[0].split('_')[0]}*")
        raise ValueError(
            f"--pretrained needs a model that timm has weights for; '{name}' has none"
            + (f": use one of {', '.join(known[:3])}" if known else "")
        )
    settings: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0, "in_chans": input_shape[0]}
    try:
        return timm.create_model(name, img_size=tuple(input_shape[1:]), **settings)
    except TypeError as error:  # convolutional models have no such argument
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, **settings)


def torchvision_model(name: str) -> nn.Module:
    """A classifier of torchvision whose last layer gives what went into it: features.

    Raises:
        ValueError: if torchvision does not know it, or it has no single last layer.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(unknown(f"torchvision:{name}", [f"torchvision:{model}" for model in known]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of how googlenet will draw its weights
        model: nn.Module = models.get_model(name, weights=None)
    last = [
        part for part, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == _CLASSES
    ]
    if len(last) != 1:
        raise ValueError(
            f"a model of torchvision needs one linear layer that gives classes, to be left out; {name} has {len(last)}: "
            "use a model of timm, or module:function"
        )
    model.set_submodule(last[0], nn.Identity())
    return model


def hub_config(name: str) -> Any:
    """The architecture of a model of transformers, from a folder, the hub's cache or the hub; no code comes with it.

    Raises:
        ValueError: if it cannot be had, or is none of transformers' own.
    """
    transformers = _transformers()
    with explained(f"the architecture of '{name}', in a folder or on the hub,"):
        return transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)


def hub_model(architecture: Any) -> nn.Module:
    """An encoder of transformers for images or texts, with fresh weights.

    Args:
        architecture: A config of transformers, or its values as in JSON.

    Raises:
        ValueError: if it is no model that takes images or texts, or one that writes texts.
    """
    transformers = _transformers()
    if isinstance(architecture, Mapping):
        values = dict(architecture)
        kind = values.pop("model_type", None)
        with explained("the architecture of the trunk"):
            architecture = transformers.AutoConfig.for_model(kind, **values)
    with explained(f"a model of kind {architecture.model_type}"):
        model: Any = transformers.AutoModel.from_config(architecture, trust_remote_code=False)
    if model.main_input_name not in ("pixel_values", "input_ids"):
        raise ValueError(
            f"--trunk hf: takes models of images or texts; a {architecture.model_type} takes {model.main_input_name}: train "
            "it in Python, by maxl.Features"
        )
    if takes_text(model) and getattr(architecture, "is_encoder_decoder", False):
        raise ValueError(
            f"--trunk hf: takes encoders of text; a {architecture.model_type} has a decoder, too: choose one such as BERT, or "
            "train its encoder in Python, by maxl.Features"
        )
    for name in ("pooler", "pooling_layer"):  # an untrained layer, as a rule, and not what is read
        if isinstance(getattr(model, name, None), nn.Module) and any(
            True for _ in getattr(model, name).parameters()
        ):
            setattr(model, name, None)
    return model  # type: ignore[no-any-return]


def takes_text(model: nn.Module) -> bool:
    """Whether a model of transformers takes tokens of texts."""
    return getattr(model, "main_input_name", None) == "input_ids"


def pretrained_weights(
    library: str | None, name: str, model: nn.Module, input_shape: Sequence[int]
) -> Fitted:
    """The weights that come with a named model.

    Args:
        library, name: As ``names.library_of`` gives them.
        model: The same with fresh weights, whose state is to be met.
        input_shape: Of one image.

    Raises:
        ValueError: if there are none, or they cannot be had or do not fit.
    """
    wanted = model.state_dict()
    if library == "torchvision":
        from torchvision.models import get_model_weights

        with explained(f"the weights of '{name}'"):
            found = get_model_weights(name).DEFAULT.get_state_dict(
                progress=False, check_hash=True, weights_only=True
            )
        return fit(found, wanted, f"what torchvision has for {name}")
    if library == "hf":
        transformers = _transformers()
        with explained(f"the weights of '{name}'"):
            taken, loading = transformers.AutoModel.from_pretrained(
                name, trust_remote_code=False, use_safetensors=True, output_loading_info=True
            )
        if missing := sorted({*loading["missing_keys"], *map(str, loading["mismatched_keys"])} & {*wanted}):
            raise ValueError(f"--pretrained found no weights for {', '.join(missing[:3])} of '{name}'")
        state = {key: value.float() for key, value in taken.state_dict().items() if key in wanted}
        unused = {key.split(".")[0] for key in loading["unexpected_keys"]}
        return Fitted(fit(state, wanted, f"'{name}'").tensors, tuple(sorted(unused)))
    with explained(f"the weights of '{name}'"):
        state = timm_model(name, input_shape, pretrained=True).state_dict()
    classifier = _timm_cfg(name).classifier
    left = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    return Fitted(fit(state, wanted, f"what timm has for '{name}'").tensors, left)


def own_inputs(library: str | None, name: str) -> OwnInputs | None:
    """Images as a named model's weights take them; None where it does not say.

    Raises:
        ValueError: if it cannot be found out.
    """
    if library == "torchvision":
        from torchvision.models import get_model_weights

        with explained(f"what torchvision says of '{name}'"):
            said = get_model_weights(name).DEFAULT.transforms()
        return OwnInputs(len(said.mean), int(said.crop_size[0]), tuple(said.mean), tuple(said.std))
    if library == "hf":
        return _hub_inputs(name)
    cfg = _timm_cfg(name)
    channels, *sides = cfg.input_size
    side = int(sides[0]) if sides[0] == sides[1] else None
    return OwnInputs(int(channels), side, tuple(map(float, cfg.mean)), tuple(map(float, cfg.std)))


def _hub_inputs(name: str) -> OwnInputs:
    transformers = _transformers()
    with explained(f"preprocessor_config.json of '{name}'"):
        said = transformers.AutoImageProcessor.from_pretrained(name, trust_remote_code=False).to_dict()
    size = said.get("crop_size") if said.get("do_center_crop") else said.get("size")
    sides = {*size.values()} if isinstance(size, Mapping) else {size}
    mean, std = said.get("image_mean"), said.get("image_std")
    if not said.get("do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    if not mean or not std or abs((said.get("rescale_factor") or 0) * 255 - 1) > 1e-6:
        raise ValueError(
            f"--normalisation model needs a mean and std for pixels divided by 255; '{name}' states others: use data"
        )
    side = next(iter(sides)) if len(sides) == 1 else None
    return OwnInputs(len(mean), side, tuple(map(float, mean)), tuple(map(float, std)))


def model_layers(model: Any) -> list[list[str]]:
    """Names of parameters, layer by layer; as the library says it, where the model is one of timm or transformers.

    Raises:
        ValueError: if the layers are not known.
    """
    if hasattr(model, "group_matcher"):
        from timm.models import group_parameters

        groups = group_parameters(model, model.group_matcher(coarse=False))
        layers: list[list[str]] = []
        matrices = {name for name, p in model.named_parameters() if p.dim() > 1}
        for _, names in sorted(groups.items()):
            if layers and not matrices.intersection(names):  # a last normalisation is none of its own
                layers[-1] += names
            else:
                layers.append(list(names))
        return layers
    if isinstance(count := getattr(getattr(model, "config", None), "num_hidden_layers", None), int):
        return _encoder_layers(model, count)
    return parameter_layers(model)


def _encoder_layers(model: nn.Module, count: int) -> list[list[str]]:
    """Of an encoder of transformers: its embeddings, each of its blocks, and with the last what follows them."""
    lists = [name for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    names = [name for name, _ in model.named_parameters()]
    blocks = (
        [[n for n in names if n.startswith(f"{lists[0]}.{i}.")] for i in range(count)]
        if len(lists) == 1
        else []
    )
    inside = {name for block in blocks for name in block}
    before = [name for name in names if name not in inside and "embed" in name.split(".")[0]]
    after = [name for name in names if name not in inside and name not in before]
    if not before or not all(blocks) or not all("norm" in name.split(".")[0] for name in after):
        raise ValueError(
            f"rates by layer need an encoder of embeddings and {count} blocks one after another; {type(model).__name__} is "
            "built in another way: leave --layer-decay out"
        )
    return [before, *blocks[:-1], blocks[-1] + after]


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Within: whatever a library raises becomes one sentence on what could not be had."""
    try:
        yield
    except Exception as error:  # of classes of their own, too
        if is_out_of_memory(error) or str(error).startswith("--"):
            raise
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{what} could not be had: {type(error).__name__}: {reason[:300]}; where there is no network, fetch them "
            "elsewhere, and name the folder, or the file by --weights"
        ) from error


def unknown(name: str, known: Sequence[str], more: str = "") -> str:
    """That a model is unknown, and the nearest that is known."""
    return f"unknown trunk '{name}'{did_you_mean(name, known)}{more}"


def _timm_cfg(name: str) -> Any:
    from timm.models import get_pretrained_cfg, is_model, list_models, list_pretrained

    if not is_model(name):
        raise ValueError(unknown(name, list_models()))

    model, _, tag = name.partition(".")
    try:
        cfg = get_pretrained_cfg(name)
    except RuntimeError as error:
        known = [one.partition(".")[2] for one in list_pretrained(f"{model}.*")]
        raise ValueError(
            f"timm has no weights '{tag}' of {model}" + (f": it has {', '.join(known)}" if known else "")
        ) from error
    if cfg is None:
        raise ValueError(f"--pretrained needs a model that timm describes; it says nothing of '{name}'")
    return cfg


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ValueError(
            '--trunk hf: needs transformers: pip install "maxl-torch[transformers]", or choose a model of timm'
        ) from error
    loaded: Any = transformers
    loaded.utils.logging.disable_progress_bar()  # what it has to say is said here
    loaded.utils.logging.set_verbosity_error()
    return loaded
