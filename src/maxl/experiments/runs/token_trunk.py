"""Trunks that read texts: encoders of transformers, given numbers of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from maxl.experiments.data import NO_TOKEN
from maxl.experiments.runs.libraries import model_layers
from maxl.experiments.runs.memory import is_out_of_memory
from maxl.trunks import Features

_TOLERANCE = 1e-3  # of features that padding changes by rounding alone


class TokenTrunk(nn.Module):
    """An encoder of texts, which gets the mask of attention that goes with its tokens.

    Where a text has ended is said by ``NO_TOKEN``, not by the number of a padding token: some tokenizers have none, and of
    others it is the one that ends a text. Batches are as wide as their longest text: what lies beyond is never computed.
    A text without any token is one of padding.

    Args:
        features: From ``input_ids`` and ``attention_mask`` to features (N, D), made of an encoder of transformers.
        input_shape: (L,), tokens of a text at most.

    Attributes:
        feature_dim: The width of the features, D.
        kinds: Numbers of tokens are below it.

    Shape: whole numbers (N, L) to (N, D).

    Raises:
        ValueError: if the encoder cannot take such texts or gives something else than features; if features depend on
            padding; or if a token does not see those after it.
    """

    def __init__(self, features: Features, input_shape: Sequence[int]) -> None:
        super().__init__()
        self.features = features
        encoder: Any = features.module
        self.length = input_shape[0]
        self.kinds: int = encoder.get_input_embeddings().num_embeddings
        padding = getattr(encoder.config, "pad_token_id", None)
        self.padding = padding if isinstance(padding, int) and 0 <= padding < self.kinds else 0
        self.eval()  # nothing is dropped
        with torch.no_grad():
            self._require_encoder()
            self.feature_dim = self._measured()
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        """Features of texts; ValueError for anything but tokens."""
        if x.is_floating_point() or x.dim() != 2:
            raise ValueError(
                f"{self._name} takes tokens of texts, whole numbers (N, L); got {x.dtype} of shape {tuple(x.shape)}"
            )
        features: Tensor = self.features(self._given(x))
        return features

    def parameter_layers(self) -> list[list[str]]:
        """Names of parameters by layer: the embeddings, then each block."""
        return [[f"features.module.{name}" for name in layer] for layer in model_layers(self.features.module)]

    def random_tokens(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Texts of random tokens and lengths, int64 of shape (count, L), the first one of full length."""
        x = torch.randint(self.kinds, (count, self.length), generator=generator)
        lengths = torch.randint(1, self.length + 1, (count, 1), generator=generator)
        lengths[0] = self.length
        return x.where(torch.arange(self.length) < lengths, NO_TOKEN)

    @property
    def _name(self) -> str:
        return type(self.features.module).__name__

    def _given(self, x: Tensor) -> dict[str, Tensor]:
        """What the encoder takes."""
        ids = x.long()
        if not torch.compiler.is_compiling():  # nor exporting: a program has one width
            ids = ids[:, : max(1, int((ids != NO_TOKEN).any(0).sum()))]
        there = torch.cat([torch.ones_like(ids[:, :1]), (ids[:, 1:] != NO_TOKEN).long()], 1)
        return {"input_ids": ids.masked_fill(ids == NO_TOKEN, self.padding), "attention_mask": there}

    def _text(self, *tokens: int) -> Tensor:
        x = torch.full((1, self.length), NO_TOKEN)
        some = torch.tensor(tokens[: self.length]) % self.kinds
        x[0, : len(some)] = some
        return x

    def _require_encoder(self) -> None:
        encoder, whole = self.features.module, self._text(*range(self.length))
        try:
            encoder(**self._given(whole))
            given = [encoder(**self._given(self._text(0, last))) for last in (1, 2)]
        except Exception as error:  # whatever the library raises, of positions beyond the last for instance
            if is_out_of_memory(error):
                raise
            raise ValueError(
                f"{self._name} cannot take texts of {self.length} tokens: {type(error).__name__}: {error}; lower "
                "--text-length or choose another trunk"
            ) from error
        states = [getattr(outputs, "last_hidden_state", None) for outputs in given]
        if self.length > 1 and all(isinstance(s, Tensor) and s.dim() == 3 for s in states):
            first, other = (s[:, 0] for s in states if s is not None)
            if torch.equal(first, other):
                raise ValueError(
                    f"--trunk hf: takes encoders of text, in which each token sees the whole text; in {self._name} a token "
                    "sees those before it alone: choose an encoder such as BERT"
                )

    def _measured(self) -> int:
        short = self._text(0, 1)
        alone, together = self(short), self(torch.cat([self._text(*range(self.length)), short]))
        if alone.dim() != 2:
            raise ValueError(
                f"a trunk gives features of shape (N, D); {self._name} gives {tuple(alone.shape)}: --trunk-output says where "
                "they are in several outputs, --trunk-pool how those of tokens become a text's"
            )
        if not torch.allclose(alone[0], together[1], rtol=_TOLERANCE, atol=_TOLERANCE):
            raise ValueError(
                f"features of a text need to be the same beside longer ones; those of {self._name} depend on padding: choose "
                "a trunk that takes a mask of attention"
            )
        return int(alone.shape[1])
