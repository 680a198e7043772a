"""Texts as tokens of an encoder, by its own tokenizer: whole numbers, which only a network that embeds them can read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maxl.experiments.data._features import fit_text
from maxl.experiments.data._memory import require_memory
from maxl.experiments.data._source import Part, Raw, Source, some_of

NO_TOKEN = -1  # where a text has ended: no token's number, as that of padding may be
_TEXTS = 4096  # made tokens at a time: what a tokenizer says of each takes more memory than its numbers


@dataclass(frozen=True)
class Tokens:
    """How texts become tokens.

    Attributes:
        tokenizer: In the JSON format of the library tokenizers, special tokens and where it cuts texts included; see ``of``.
        length: L, tokens of a text at most.
        column: The column of a table that holds texts.
        source: Whose tokenizer it is, for messages.

    Raises:
        ValueError: in use, if there is no such tokenizer, or it cuts elsewhere.
    """

    tokenizer: str
    length: int
    column: str = "text"
    source: str = "a run"

    @classmethod
    def of(cls, tokenizer: Any, length: int, *, side: str = "right", source: str = "a tokenizer") -> Tokens:
        """From a ``tokenizers.Tokenizer``, which is left as it is.

        Args:
            tokenizer: Of an encoder.
            length: L.
            side: Where longer texts are cut.
            source: For messages.

        Raises:
            ValueError: if so few tokens are but the special ones.
        """
        copy = type(tokenizer).from_str(tokenizer.to_str())
        copy.no_padding()
        if length <= (special := copy.num_special_tokens_to_add(False)):
            raise ValueError(
                f"a text needs room for a word beside {special} special tokens of {source}; got --text-length {length}"
            )
        copy.enable_truncation(length, direction=side)
        return cls(copy.to_str(), length, source=source)

    def cut_at(self, length: int) -> Tokens:
        """The same with another length; errors as for ``of``."""
        side = str(self._loaded.truncation["direction"])
        made = Tokens.of(self._loaded, length, side=side, source=self.source)
        return Tokens(made.tokenizer, length, self.column, self.source)

    @cached_property
    def kinds(self) -> int:
        """Numbers of tokens are below it."""
        return 1 + max(self._loaded.get_vocab(with_added_tokens=True).values(), default=0)

    def __call__(self, raw: Raw) -> Tensor:
        """Texts as numbers of tokens, int32 of shape (N, L), ``NO_TOKEN`` behind the end of each."""
        assert isinstance(raw, list)
        return self.counted(raw)[0]

    def counted(self, texts: list[str]) -> tuple[Tensor, int]:
        """The same, and how many texts were cut.

        Raises:
            ValueError: if there is no memory for them.
        """
        require_memory(4 * len(texts) * self.length, f"{len(texts)} texts of {self.length} tokens")
        made, cut = np.full((len(texts), self.length), NO_TOKEN, dtype=np.int32), 0
        for row, encoded in enumerate(self._encoded(texts)):
            made[row, : len(encoded.ids)] = encoded.ids
            cut += bool(encoded.overflowing)
        return torch.from_numpy(made), cut

    def to_bytes(self) -> bytes:
        """The tokenizer's file."""
        return self.tokenizer.encode()

    @classmethod
    def read(cls, file: Path, length: int, column: str) -> Tokens:
        """From a file with the content of ``to_bytes``.

        Raises:
            ValueError: if it holds no tokenizer, or one that cuts texts elsewhere.
        """
        try:
            tokens = cls(file.read_text("utf-8"), length, column)
        except UnicodeDecodeError as error:
            raise ValueError(f"no UTF-8 text: {error}") from error
        cuts = (tokens._loaded.truncation or {}).get("max_length")
        if cuts != length:
            raise ValueError(f"it cuts texts at {cuts} tokens, and the run at {length}")
        return tokens

    @cached_property
    def _loaded(self) -> Any:
        from tokenizers import Tokenizer

        try:
            return Tokenizer.from_str(self.tokenizer)
        except Exception as error:  # the library has no class of its own for them
            raise ValueError(f"no tokenizer: {error}") from error

    def _encoded(self, texts: list[str]) -> Iterator[Any]:
        for start in range(0, len(texts), _TEXTS):
            yield from self._loaded.encode_batch(texts[start : start + _TEXTS])


def require_texts(tokens: Tokens, source: Source, name: str) -> None:
    """ValueError unless the samples of a source are texts and nothing else."""
    if source.fit is fit_text:
        return
    columns = source.feature_names or ()
    raise ValueError(
        f"{tokens.source} takes texts, one column of them; '{name}' has "
        + (f"the columns {some_of(columns)}: leave out the others with --drop" if columns else "images")
        + ", or choose another --trunk"
    )


def token_inputs(parts: Sequence[Part], tokens: Tokens) -> tuple[list[Tensor], str]:
    """The samples of all parts as tokens, and what is to be said of them, in a line."""
    made = []
    for part in parts:
        texts = part.read(np.arange(len(part)))
        assert isinstance(texts, list)  # a source of texts is the caller's
        made.append(tokens.counted(texts))
    count, cut = sum(len(x) for x, _ in made), sum(cut for _, cut in made)
    longer = (
        f"; {cut} of {count} texts are longer and were cut, which --text-length changes"
        if cut
        else f"; none of {count} texts is longer"
    )
    return [
        x for x, _ in made
    ], f"texts become tokens as {tokens.source} takes them, at most {tokens.length} each{longer}"
