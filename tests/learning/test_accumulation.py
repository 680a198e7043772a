from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import maxl
from _networks import PSI, batch, flatten, relative_error
from maxl.hypergradients import WAYS


def trunk() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 16),
    )


def networks() -> tuple[maxl.MultiTaskNetwork, maxl.LabelGenerator]:
    torch.manual_seed(0)
    hierarchy = maxl.Hierarchy(PSI)
    return maxl.MultiTaskNetwork(trunk(), hierarchy), maxl.LabelGenerator(trunk(), hierarchy)


@pytest.mark.parametrize(
    ("method", "kind"),
    # Adam's first steps stretch the direction far along weights with tiny gradients: too far for differences
    [*((m, torch.optim.SGD) for m in WAYS), ("forward", torch.optim.Adam), ("reverse", torch.optim.Adam)],
)
@pytest.mark.parametrize("options", [{}, {"meta_every": 2, "cache_size": 12}])
@pytest.mark.usefixtures("float64")
def test_parts_give_the_step_of_the_whole_batch(method: str, kind: Any, options: dict[str, Any]) -> None:
    learners = []
    for extra in ({"microbatch": 5}, {}):
        network, generator = networks()
        build = maxl.AccumulatingLearner if extra else maxl.MetaAuxiliaryLearner
        learners.append(
            build(
                network,
                generator,
                kind(network.parameters(), lr=0.05),
                torch.optim.SGD(generator.parameters(), lr=0.5),
                hypergradient=method,
                **({} if extra else maxl.PRESETS["exact"]),
                **extra,
                **options,
            )
        )
    index = torch.arange(12)
    held_out = batch(7, seed=99)
    for seed in range(3):
        results = [learner.step(*batch(12, seed=seed), index, held_out) for learner in learners]
        for name in (
            "loss",
            "outer_loss",
            "label_entropy_term",
            "hypergradient_norm",
            "regulariser_norm",
            "labels",
        ):
            a, b = (getattr(r, name) for r in results)
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-10)
    tolerance = (
        {"rtol": 1e-5, "atol": 1e-7} if method == "finite-difference" else {"rtol": 1e-8, "atol": 1e-10}
    )
    for name in ("network", "generator"):
        pairs = zip(*(getattr(learner, name).parameters() for learner in learners), strict=True)
        for p, q in pairs:
            torch.testing.assert_close(p, q, **tolerance)


def test_no_pass_sees_more_than_a_part() -> None:
    network, generator = networks()
    sizes: list[int] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes.append(len(inputs[0]))

    network.register_forward_pre_hook(note)
    generator.register_forward_pre_hook(note)
    learner = maxl.AccumulatingLearner(
        network,
        generator,
        torch.optim.SGD(network.parameters(), lr=0.05),
        torch.optim.SGD(generator.parameters(), lr=0.5),
        microbatch=4,
    )
    before = copy.deepcopy(generator.state_dict())
    learner.step(*batch(10))
    assert set(sizes) == {4, 2}
    assert any(not torch.equal(before[k], v) for k, v in generator.state_dict().items())
    with pytest.raises(ValueError, match="microbatch needs to be at least 1"):
        maxl.AccumulatingLearner(network, generator, learner.optimizer, learner.meta_optimizer, microbatch=0)


def divided(z: Tensor, y: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(z, y, weight=torch.tensor([1.0, 5.0, 0.2]).to(z))


def summed(z: Tensor, y: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(z, y, reduction="sum")


@pytest.mark.parametrize("microbatch", [1, 4])
@pytest.mark.parametrize("loss", [divided, summed])
def test_losses_that_are_no_means_are_seen_in_parts_of_one_sample_or_class(
    loss: Any, microbatch: int
) -> None:
    torch.manual_seed(0)
    hierarchy = maxl.Hierarchy.uniform(3, 2)
    network = maxl.MultiTaskNetwork(nn.Linear(6, 8), hierarchy, feature_dim=8)
    generator = maxl.LabelGenerator(nn.Linear(6, 8), hierarchy, feature_dim=8)
    learner = maxl.AccumulatingLearner(
        *(network, generator),
        *(torch.optim.SGD(m.parameters(), lr=0.1) for m in (network, generator)),
        microbatch=microbatch,
        primary_loss=loss,
        auxiliary_loss=maxl.focal_loss,
    )
    y = torch.arange(3).repeat_interleave(4)  # sorted: a part of four is of one class
    with pytest.raises(ValueError, match="means over samples"):
        learner.step(torch.randn(12, 6), y)


@pytest.mark.parametrize(("microbatch", "count"), [(1, 8), (2, 8), (64, 256), (500, 1000)])
def test_weights_normalised_over_a_batch_are_refused_on_its_parts(microbatch: int, count: int) -> None:
    class Even(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 1)
            nn.init.zeros_(self.layer.weight)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.layer(x).sigmoid().squeeze(1)

    torch.manual_seed(0)
    hierarchy = maxl.Hierarchy.uniform(3, 2)
    network, generator = maxl.MultiTaskNetwork(nn.Linear(6, 8), hierarchy, feature_dim=8), Even()
    learner = maxl.AccumulatingLearner(
        *(network, generator),
        *(torch.optim.SGD(m.parameters(), lr=0.1) for m in (network, generator)),
        microbatch=microbatch,
        supervision=maxl.supervision.SampleWeights(normalise=True),
    )
    with pytest.raises(ValueError, match="means over samples"):
        learner.step(torch.randn(count, 6), torch.arange(count) % 3)


def small(kind: type[Any] = maxl.AccumulatingLearner, **options: Any) -> Any:
    torch.manual_seed(0)
    hierarchy = maxl.Hierarchy([2, 3, 1])
    network = maxl.MultiTaskNetwork(nn.Sequential(nn.Linear(6, 8), nn.Tanh()), hierarchy, feature_dim=8)
    generator = maxl.LabelGenerator(nn.Sequential(nn.Linear(6, 8), nn.Tanh()), hierarchy, feature_dim=8)
    if kind is maxl.AccumulatingLearner:
        options["microbatch"] = 4
    return kind(
        network,
        generator,
        torch.optim.SGD(network.parameters(), lr=0.3),
        torch.optim.SGD(generator.parameters(), lr=1.0),
        **options,
    )


def rows(seed: int, count: int = 8) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, generator=random), torch.randint(0, 3, (count,), generator=random)


def weights_of(learner: Any) -> Tensor:
    return flatten([*learner.network.parameters(), *learner.generator.parameters()])


@pytest.mark.parametrize("before", ["nothing", "a step", "another loss", "a part", "a part, clipped"])
@pytest.mark.usefixtures("float64")
def test_a_batch_that_fails_in_its_last_part_leaves_no_trace(before: str) -> None:
    """What follows is as if it had not been given."""
    x, y = rows(0)
    x[-1] = float("nan")
    ends = []
    for failing in (False, True):
        learner = small(entropy_weight=0.0)
        parameters = list(learner.network.parameters())
        share = 0.5 if before.startswith("a part") else 1.0
        if before == "a step":
            learner.step(*rows(1))
        if before == "another loss":
            (0.1 * sum(p.square().sum() for p in parameters)).backward()
        if before.startswith("a part"):
            learner.backward(*rows(1), share=0.5)
        held = [p.grad for p in parameters]
        values = [None if g is None else g.clone() for g in held]
        if failing:
            with pytest.raises(FloatingPointError, match="training loss needs to be finite"):
                learner.backward(x, y, share=share)
            if before == "a step":  # its gradients have been used
                assert all(p.grad is None for p in parameters)
            else:
                for p, gradient, value in zip(parameters, held, values, strict=True):
                    assert p.grad is gradient
                    assert value is None or torch.equal(gradient, value)
        learner.backward(*rows(2), share=share)
        if before.endswith("clipped"):
            nn.utils.clip_grad_norm_(parameters, 0.1)
        learner.optimizer.step()
        result = learner.meta_step()
        assert result.outer_loss is not None
        ends.append((weights_of(learner), learner.steps))
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


@pytest.mark.usefixtures("float64")
def test_after_a_batch_that_failed_the_step_in_the_making_can_be_taken() -> None:
    """Also where it is the only part that is left, and clipped."""
    x, y = rows(0)
    x[-1] = float("nan")
    ends = []
    for failing in (False, True):
        learner = small(entropy_weight=0.0)
        learner.backward(*rows(1))
        if failing:
            with pytest.raises(FloatingPointError):
                learner.backward(x, y)
        nn.utils.clip_grad_norm_(learner.network.parameters(), 0.1)
        learner.optimizer.step()
        learner.meta_step()
        ends.append(weights_of(learner))
    assert torch.equal(*ends)


@pytest.mark.usefixtures("float64")
def test_gradients_that_were_changed_between_parts_stay_refused_after_a_failure() -> None:
    learner = small(entropy_weight=0.0)
    learner.backward(*rows(1), share=0.5)
    nn.utils.clip_grad_norm_(learner.network.parameters(), 0.1)
    for _ in range(2):
        with pytest.raises(ValueError, match="stay as they are between parts of a batch"):
            learner.backward(*rows(2), share=0.5)


@pytest.mark.usefixtures("float64")
def test_a_loss_that_is_no_mean_may_not_judge_in_parts_though_the_batch_is_whole() -> None:
    losses = {"primary_loss": divided, "auxiliary_loss": maxl.focal_loss}
    y = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    learner = small(**losses)
    before = flatten(list(learner.generator.parameters()))
    with pytest.raises(ValueError, match="means over samples"):
        learner.step(*rows(0, 4), outer_batch=(rows(3)[0], y))
    assert torch.equal(flatten(list(learner.generator.parameters())), before)
    # As a whole it may.
    ends = []
    for kind in (maxl.AccumulatingLearner, maxl.MetaAuxiliaryLearner):
        learner = small(kind, **losses)
        learner.step(*rows(0, 4), outer_batch=rows(3, 4))
        ends.append(weights_of(learner))
    assert relative_error(*ends) < 1e-12


@pytest.mark.parametrize("count", [5, 8])
@pytest.mark.usefixtures("float64")
def test_a_loss_that_judges_in_parts_is_looked_at_from_part_to_part(count: int) -> None:
    """Each part is of one class, of which the loss is a mean."""
    learner = small(primary_loss=divided, auxiliary_loss=maxl.focal_loss)
    y = torch.arange(count) // 4
    with pytest.raises(ValueError, match="means over samples"):
        learner.step(*rows(0, 4), outer_batch=(rows(3, count)[0], y))


@pytest.mark.parametrize(
    "choice",
    [{"lookahead": maxl.Virtual()}, {"lookahead": "virtual"}, {"evaluate": "next"}, {"favour": "time"}],
)
def test_a_choice_that_parts_leave_no_room_for_is_refused(choice: dict[str, Any]) -> None:
    [name] = choice
    with pytest.raises(ValueError, match=f"AccumulatingLearner takes {name}=.* itself; got .*: drop it"):
        small(**choice)
    small(lookahead="update", evaluate="same", favour="memory")
