"""What a data set is asked to be, whatever it is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from maxl.experiments.data._columns import Columns
from maxl.experiments.data._features import TextFeatures
from maxl.experiments.data._finer import SUFFIX, FinerClasses, read_finer
from maxl.experiments.data._source import Wanted
from maxl.experiments.data._targets import TASKS
from maxl.experiments.data._tokens import Tokens
from maxl.experiments.data._types import Features
from maxl.presets import check_choice

Like = Features | TextFeatures | Columns | Tokens


@dataclass(frozen=True)
class Options:
    """What ``load`` is asked for, whatever the data; see its arguments."""

    wanted: Wanted
    task: str
    train_size: int | float | None
    validation_size: int | float
    seed: int
    ignore_index: int
    like: Like | None
    finer: FinerClasses | None
    workers: int = 1

    @classmethod
    def of(
        cls,
        *,
        primary: str | Sequence[str] | None = None,
        human: str | None = None,
        probe: str | None = None,
        trusted: str | None = None,
        task: str = "auto",
        train_size: int | float | None = None,
        validation_size: int | float = 0,
        seed: int = 0,
        image_size: int | None = None,
        ignore_index: int = 255,
        drop: Sequence[str] = (),
        types: Mapping[str, str] | None = None,
        like: Like | None = None,
        stream: bool = False,
        workers: int = 1,
    ) -> Options:
        """Checked; errors as for ``load``."""
        if image_size is not None and image_size < 1:
            raise ValueError(f"image_size must be at least 1 pixel; got {image_size}")
        if workers < 1:
            raise ValueError(f"workers must be at least 1 thread; got {workers}")
        check_choice("--task", task, ("auto", *TASKS))
        columns = (primary,) if isinstance(primary, str) else tuple(primary or ())
        if len({*columns}) < len(columns):
            raise ValueError(f"--primary needs different columns; got {', '.join(columns)}")
        file = None if human is None or not human.endswith(SUFFIX) else Path(human)
        finer, human = (None, human) if file is None else (read_finer(file), None)
        before = like if isinstance(like, Columns) else None
        wanted = Wanted(
            columns,
            human,
            image_size,
            tuple(drop),
            types or {},
            probe,
            {} if before is None else before.kinds,  # a few texts may look like categories
            stream,
            trusted,
            () if before is None else tuple(before.written()),
        )
        return cls(wanted, task, train_size, validation_size, seed, ignore_index, like, finer, workers)
