"""Captured random numbers are drawn again, on whichever device they are drawn."""

from __future__ import annotations

import pytest
import torch

from maxl.hypergradients import RandomState


def test_a_replay_draws_the_same_and_leaves_no_trace() -> None:
    state = RandomState.capture(torch.device("cpu"))
    drawn = torch.rand(3)
    after = torch.get_rng_state()
    with state.replay():
        assert torch.equal(torch.rand(3), drawn)
    assert torch.equal(torch.get_rng_state(), after)
    with pytest.raises(ZeroDivisionError), state.replay():
        _ = torch.rand(3), 1 / 0
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_an_accelerator_has_a_generator_of_its_own(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator()  # in place of the device's
    module = getattr(torch, kind)
    monkeypatch.setattr(module, "get_rng_state", lambda *_: generator.get_state())
    monkeypatch.setattr(module, "set_rng_state", lambda state, *_: generator.set_state(state))
    state = RandomState.capture(torch.device(kind))
    drawn = torch.rand(3, generator=generator)
    with state.replay():
        assert torch.equal(torch.rand(3, generator=generator), drawn)
    after = torch.rand(3, generator=generator)
    assert not torch.equal(after, drawn)
    RandomState.from_state(state.state(), torch.device(kind)).restore()
    assert torch.equal(torch.rand(3, generator=generator), drawn)
    elsewhere = RandomState.from_state(state.state(), torch.device("cpu"))  # a run goes on without its GPU
    assert elsewhere.accelerator is None
    assert torch.equal(elsewhere.cpu, state.cpu)
