"""A learner of texts and Hugging Face's Trainer around it."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import maxl
from _networks import flatten

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its imports' own
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    pytest.importorskip("accelerate", reason="needs accelerate")
    from maxl.integrations.transformers import MAXLTrainer

HIERARCHY = maxl.Hierarchy.uniform(3, 2)
LOOKAHEADS = {"taken": maxl.Taken, "next": maxl.Next, "virtual": maxl.Virtual}
TOKENS = 12
Row = dict[str, Any]
transformers.logging.set_verbosity_error()
logging.getLogger("accelerate").setLevel(logging.ERROR)


@pytest.fixture(scope="module", autouse=True)
def little_garbage() -> Iterator[None]:
    """Accelerate collects garbage before every training, among all objects that the imports have made."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Encoder(nn.Module):
    """Tokens to states, as encoders of text have them."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, 6)
        self.layer = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Dropout(dropout))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        return {"states": self.layer(self.embedding(input_ids)), "mask": attention_mask}


def trunk(dropout: float = 0.0) -> maxl.Features:
    return maxl.Features(Encoder(dropout), "states", pool="mean", feature_dim=6)


def learner(lookahead: str | None = "taken", dropout: float = 0.0, **options: Any) -> Any:
    torch.manual_seed(0)
    network = maxl.MultiTaskNetwork(trunk(dropout), HIERARCHY).double()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-2)
    if lookahead is None:
        return maxl.MultiTaskLearner(network, optimizer, **options)
    generator = maxl.LabelGenerator(trunk(), HIERARCHY).double()
    meta_optimizer = torch.optim.Adam(generator.parameters(), lr=1e-2)
    chosen = LOOKAHEADS[lookahead]()
    return maxl.MetaAuxiliaryLearner(
        network, generator, optimizer, meta_optimizer, lookahead=chosen, **options
    )


def rows(count: int = 18) -> list[Row]:
    """Texts of one to five tokens, which say their class."""
    random = torch.Generator().manual_seed(1)
    made = []
    for i in range(count):
        ids = torch.randint(1, TOKENS, (1 + i % 5,), generator=random)
        made.append({"input_ids": ids.tolist(), "labels": int(ids[0]) % 3})
    return made


class Padding:
    """A collator that fills texts up to the longest, and remembers its batches."""

    def __init__(self, fill: int = 0) -> None:
        self.fill = fill
        self.batches: list[tuple[dict[str, Tensor], Tensor]] = []

    def __call__(self, some: list[Row]) -> dict[str, Tensor]:
        longest = max(len(row["input_ids"]) for row in some)
        batch = {
            "input_ids": torch.full((len(some), longest), self.fill),
            "attention_mask": torch.zeros(len(some), longest, dtype=torch.int64),
        }
        for i, row in enumerate(some):
            batch["input_ids"][i, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
            batch["attention_mask"][i, : len(row["input_ids"])] = 1
        labels = {key: torch.tensor([row[key] for row in some]) for key in some[0] if key != "input_ids"}
        if "labels" in labels:
            self.batches.append((batch, labels["labels"]))
        return {**batch, **labels}


def trainer(trained: Any, folder: Path, **options: Any) -> Any:
    """A Trainer; options that are not its own are its arguments'."""
    own = {
        name: options.pop(name)
        for name in ("callbacks", "compute_metrics", "data_collator", "eval_dataset", "index_name")
        if name in options
    }
    data = options.pop("train_dataset", rows())
    arguments = {
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "logging_strategy": "no",
        **options,
    }
    args = transformers.TrainingArguments(str(folder), **arguments)
    return MAXLTrainer(trained, args, train_dataset=data, **{"data_collator": Padding(), **own})


def weights(trained: Any) -> Tensor:
    modules = [trained.network, *([trained.generator] if hasattr(trained, "generator") else [])]
    return flatten([p for m in modules for p in m.parameters()])
