"""Encoders of texts by name, and the tokenizers that go with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from maxl.experiments.data import Tokens
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.inputs import stored_tokens
from maxl.experiments.runs.libraries import explained, hub_config, hub_model, takes_text
from maxl.experiments.runs.methods import CLUSTER_METHODS, OWN, SHARED
from maxl.experiments.runs.names import library_of
from maxl.experiments.runs.own_inputs import finished_run

_LENGTH = 128  # tokens of a text at most, where nothing is said
_UNSTATED = 1 << 24  # and more: what tokenizers without a length of their own say


def tokens_of(config: RunConfig, finished: RunFolder | None = None) -> Tokens | None:
    """How texts become what the trunk of a run takes; None where that is no encoder of texts.

    Args:
        config: Of the run.
        finished: Its folder where it is finished, which then says it.

    Raises:
        ValueError: if the tokenizer cannot be had, or another setting does not go with such a trunk.
    """
    if finished is not None:
        return stored_tokens(finished)
    if config.from_run is not None:
        tokens = stored_tokens(finished_run(config))
        if tokens is not None and config.text_length is not None:
            tokens = tokens.cut_at(config.text_length)
    else:
        library, name = library_of(config.trunk)
        tokens = hub_tokens(name, config.text_length) if library == "hf" else None
    if tokens is None:
        if config.text_length is not None:
            raise ValueError(
                f"--text-length is for an encoder of texts, --trunk hf:NAME; got --trunk {config.trunk}: leave it out"
            )
        return None
    if config.normalisation == "model":
        raise ValueError(f"--normalisation model is of images; {tokens.source} takes texts: leave it out")
    return tokens


def check_tokens(config: RunConfig, tokens: Tokens | None) -> None:
    """What a config asks of samples that are tokens, or are none.

    Args:
        config: Of the run.
        tokens: How texts become tokens, as its data has it.

    Raises:
        ValueError: if tokens are to be clustered, or the label generator's trunk would take other inputs than the network's.
    """
    if tokens is not None and config.method in CLUSTER_METHODS and config.cluster_features != "trunk":
        raise ValueError(
            f"--method {config.method} clusters numbers, and numbers of tokens say nothing by their size: use "
            f"--cluster-features trunk; got {config.cluster_features}"
        )
    _check_generator(config, tokens)


def hub_tokens(name: str, length: int | None) -> Tokens | None:
    """The tokenizer of an encoder of texts; None for a model that takes none. No code comes with it.

    Args:
        name: As for ``hub_config``.
        length: Tokens of a text at most; by default 128, or fewer where model or tokenizer take no more.

    Raises:
        ValueError: if it cannot be had, takes no such length, or does not go with the model.
    """
    with torch.device("meta"):  # no weight is made
        model: Any = hub_model(hub_config(name))
    if not takes_text(model):
        return None
    import transformers

    with explained(f"the tokenizer of '{name}', in a folder or on the hub,"):
        found: Any = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        embedded = model.get_input_embeddings().num_embeddings
    if not found.is_fast:
        raise ValueError(
            f"--trunk hf: needs a tokenizer of the library tokenizers, which a run can keep as JSON; '{name}' has a "
            f"{type(found).__name__}: save it as one (tokenizer.json)"
        )
    most = [limit for limit in (*_positions(model), found.model_max_length) if 0 < limit < _UNSTATED]
    if length is not None and most and length > min(most):
        raise ValueError(f"--text-length needs to be at most {min(most)} for hf:{name}; got {length}")
    tokens = Tokens.of(
        found.backend_tokenizer,
        min([_LENGTH, *most]) if length is None else length,
        side=found.truncation_side,
        source=f"hf:{name}",
    )
    if not {*found.get_vocab()} - {*found.all_special_tokens}:  # what is made where its files are missing
        raise ValueError(
            f"an encoder of texts needs its tokenizer; that of '{name}' knows no word: put its files beside the model's "
            "(tokenizer.json)"
        )
    if tokens.kinds > embedded:
        raise ValueError(
            f"the tokenizer of '{name}' needs to be its model's: it numbers {tokens.kinds} tokens, of which the model knows "
            f"{embedded}"
        )
    return tokens


def _positions(model: Any) -> list[int]:
    """Tokens that a model says it has positions for; the least of them counts."""
    stated = getattr(model.config, "max_position_embeddings", None)
    limits = [stated] if isinstance(stated, int) else []
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and "position" in name.rpartition(".")[2]:
            # Where padding has a position of its own, others are counted from there on.
            limits.append(
                module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
            )
    return limits


def _check_generator(config: RunConfig, tokens: Tokens | None) -> None:
    name = config.generator_trunk
    if name in (OWN, SHARED, config.trunk):
        return
    library, model = library_of(name)
    other = hub_tokens(model, None if tokens is None else tokens.length) if library == "hf" else None
    if (tokens and tokens.tokenizer) != (other and other.tokenizer):
        raise ValueError(
            f"--generator-trunk {name} needs to take what --trunk {config.trunk} does, texts by the same tokenizer or other "
            "inputs: use own or shared"
        )
