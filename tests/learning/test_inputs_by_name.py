"""Inputs that are several tensors by name train as one tensor does, under the same guards."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import maxl
from _networks import flatten
from maxl.check import check_hypergradient

HIERARCHY = maxl.Hierarchy.uniform(3, 2)
LOOKAHEADS: dict[str, Callable[[], Any]] = {
    "taken": maxl.Taken,
    "recompute": lambda: maxl.Taken(recompute=True),
    "next": maxl.Next,
    "virtual": maxl.Virtual,
}
Named = dict[str, Tensor]


class Trunk(nn.Module):
    """Of a token and a number: (N,) and (N, 4), or both in one tensor (N, 5)."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.feature_dim = 6
        self.embedding = nn.Embedding(7, 4)
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(dropout))

    def forward(self, x: Tensor | Named) -> Tensor:
        token, number = (x[:, 0].long(), x[:, 1:]) if isinstance(x, Tensor) else (x["token"], x["number"])
        return self.layers(self.embedding(token) + number)


def learner(lookahead: str = "taken", kind: Any = maxl.MetaAuxiliaryLearner, **options: Any) -> Any:
    torch.manual_seed(0)
    dropout = options.pop("dropout", 0.0)
    network = maxl.MultiTaskNetwork(Trunk(dropout), HIERARCHY).double()
    generator = maxl.LabelGenerator(Trunk(), HIERARCHY).double()
    if options.pop("sharing", False):
        generator = maxl.LabelGenerator.sharing(network).double()
    optimizers = (
        torch.optim.AdamW(network.parameters(), lr=1e-2),
        torch.optim.SGD(generator.parameters(), lr=0.5),
    )
    if kind is maxl.MetaAuxiliaryLearner:
        options["lookahead"] = LOOKAHEADS[lookahead]()
    return kind(network, generator, *optimizers, **options)


def batches(count: int = 4, size: int = 6) -> list[tuple[Named, Tensor]]:
    random = torch.Generator().manual_seed(1)
    return [
        (
            {
                "token": torch.randint(0, 7, (size,), generator=random),
                "number": torch.randn(size, 4, generator=random, dtype=torch.float64),
            },
            torch.randint(0, 3, (size,), generator=random),
        )
        for _ in range(count)
    ]


def joined(x: Named) -> Tensor:
    return torch.cat([x["token"].unsqueeze(1).double(), x["number"]], 1)


def weights(trained: Any) -> Tensor:
    return flatten([*trained.network.parameters(), *trained.generator.parameters()])


@pytest.mark.parametrize(
    ("lookahead", "options"),
    [
        *((name, {}) for name in LOOKAHEADS),
        ("taken", {"sharing": True}),
        ("taken", {"way": maxl.Reverse()}),
        ("taken", {"way": maxl.FiniteDifference()}),
        ("taken", {"schedule": maxl.Part(0.5)}),
        ("next", {"schedule": maxl.Part(0.5, 2), "dropout": 0.3}),
        ("taken", {"kind": maxl.AccumulatingLearner, "microbatch": 4}),
    ],
)
def test_training_is_that_of_one_tensor(lookahead: str, options: dict[str, Any]) -> None:
    one, several = learner(lookahead, **options), learner(lookahead, **options)
    for trained, form in ((one, joined), (several, dict)):
        torch.manual_seed(2)
        for x, y in batches():
            trained.step(form(x), y)
        x, y = batches(5)[-1]
        trained.step(form(x), y, outer_batch=None if lookahead == "next" else (form(batches()[0][0]), y[:6]))
    assert torch.equal(weights(one), weights(several))


def test_the_pure_function_is_that_of_one_tensor() -> None:
    (x, y), judge = batches(2)
    trained = learner(dropout=0.3)
    found = []
    for form in (joined, dict):
        torch.manual_seed(3)
        outer = form(judge[0]), judge[1]
        found.append(maxl.hypergradient(trained.network, trained.generator, form(x), y, outer_batch=outer))
    assert torch.equal(flatten(found[0]), flatten(found[1]))
    assert flatten(found[0]).norm() > 0


def test_parts_of_a_batch_by_share_are_the_whole() -> None:
    whole, parts = learner(), learner()
    x, y = batches(1)[0]
    whole.step(x, y)
    for rows in (slice(0, 4), slice(4, 6)):
        part = {name: tensor[rows] for name, tensor in x.items()}
        parts.backward(part, y[rows], share=len(y[rows]) / 6)
    parts.optimizer.step()
    parts.meta_step()
    torch.testing.assert_close(weights(whole), weights(parts), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
def test_a_copy_from_a_file_goes_on_alike(lookahead: str) -> None:
    first, second = learner(lookahead, dropout=0.3), learner(lookahead, dropout=0.3)
    *before, last = batches()
    torch.manual_seed(4)
    for x, y in before:
        first.step(x, y)
    file = io.BytesIO()
    parts = ("network", "generator", "optimizer", "meta_optimizer")
    torch.save(
        {name: getattr(first, name).state_dict() for name in parts} | {"self": first.state_dict()}, file
    )
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    for name in parts:
        getattr(second, name).load_state_dict(saved[name])
    second.load_state_dict(saved["self"])
    for trained in (first, second):
        torch.manual_seed(5)
        trained.step(*last)
    assert torch.equal(weights(first), weights(second))


def test_check_hypergradient_takes_them() -> None:
    x, y = batches(1)[0]
    trained = learner()
    report = check_hypergradient(
        trained.network.float(),
        trained.generator.float(),
        {**x, "number": x["number"].float()},
        y,
        repeats=1,
    )
    assert report.recommended in ("forward", "reverse")
    assert report.rows[0].relative_error < 1e-4  # against float64, in which tokens stay whole numbers
    assert "inputs of torch.int64 are passed on as they are" in report.notes


# Right or refused


@pytest.mark.parametrize("name", ["token", "number", "y"])
def test_a_write_to_any_of_them_before_the_meta_step_is_refused(name: str) -> None:
    trained = learner()
    x, y = batches(1)[0]
    trained.backward(x, y)
    trained.optimizer.step()
    {**x, "y": y}[name][0] = 0
    with pytest.raises(ValueError, match="written to in place"):
        trained.meta_step()


def test_the_callers_mapping_may_change() -> None:
    undisturbed, disturbed = learner(), learner()
    x, y = batches(1)[0]
    undisturbed.step(x, y)
    given = dict(x)
    disturbed.backward(given, y)
    disturbed.optimizer.step()
    given["number"] = torch.zeros_like(given["number"])
    given.pop("token")
    disturbed.meta_step()
    assert torch.equal(weights(undisturbed), weights(disturbed))


def test_the_very_batch_is_told_from_an_equal_one() -> None:
    trained = learner()
    x, y = batches(1)[0]
    trained.backward(x, y)
    trained.optimizer.step()
    for other in (copy.deepcopy(x), {**x, "more": y}, {"token": x["token"]}, x["number"]):
        with pytest.raises(ValueError, match="the very x"):
            trained.meta_step(other, y)
    trained.meta_step(dict(x), y)  # the same tensors in another mapping


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ({}, "got dict of nothing"),
        ({"token": torch.zeros(6), "text": ["a"] * 6}, "got dict of token: Tensor, text: list"),
        ([torch.zeros(6, 5)], "got list"),
    ],
)
def test_what_is_no_tensor_is_refused(x: Any, words: str) -> None:
    y = batches(1)[0][1]
    with pytest.raises(ValueError, match=words):
        learner().backward(x, y)
    with pytest.raises(ValueError, match=words):
        maxl.hypergradient(learner().network, learner().generator, x, y)


@pytest.mark.parametrize(
    "options", [{"schedule": maxl.Part(0.5)}, {"kind": maxl.AccumulatingLearner, "microbatch": 4}]
)
@pytest.mark.parametrize("shared", [torch.arange(8).unsqueeze(0), torch.tensor(1.0), torch.zeros(12, 2)])
def test_a_part_needs_a_row_for_each_sample(options: dict[str, Any], shared: Tensor) -> None:
    x, y = batches(1)[0]
    with pytest.raises(ValueError, match="one row for each of its 6 samples"):
        learner(**options).backward({**x, "shared": shared}, y)
