"""What Hugging Face's Trainer keeps of a learner, and reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import maxl
from _hugging_face_helpers import (
    HIERARCHY,
    Padding,
    learner,
    rows,
    trainer,
    trunk,
    weights,
)
from _hugging_face_helpers import little_garbage as little_garbage
from _networks import same, snapshot
from maxl.integrations.transformers import from_pretrained

pytestmark = pytest.mark.filterwarnings("ignore")  # its advice on devices, workers and names


def test_what_inference_needs_is_kept_and_no_more(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    trained, fresh = learner(), learner()
    fit = trainer(trained, tmp_path, save_strategy="steps", save_steps=10)
    fit.train()
    fit.save_model(str(tmp_path / "kept"))
    names = load_file(tmp_path / "kept" / "model.safetensors").keys()
    assert {name.split(".")[0] for name in names} == {"trunk", "primary_head"}
    batch = Padding()(rows())
    batch.pop("labels")
    trained.network.eval()
    for folder in ("kept", "checkpoint-10"):
        network = from_pretrained(tmp_path / folder, learner().network)
        assert not network.training
        assert torch.equal(network.predict(batch), trained.network.predict(batch))
    assert torch.equal(
        network(batch).auxiliary, trained.network(batch).auxiliary
    )  # a checkpoint has all of it
    assert not torch.equal(fresh.network.predict(batch), trained.network.predict(batch))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    trainer(learner(), tmp_path).save_model(str(tmp_path))
    others = {
        "primary_head": maxl.MultiTaskNetwork(trunk(), maxl.Hierarchy.uniform(4, 2)),
        "trunk.embedding": maxl.MultiTaskNetwork(nn.Embedding(3, 4), HIERARCHY, feature_dim=4),
    }
    for name, network in others.items():
        before = snapshot(network)
        with pytest.raises(ValueError, match=rf"differs in .*{name.split('.')[0]}"):
            from_pretrained(tmp_path, network)
        assert same(before, snapshot(network))
    with pytest.raises(FileNotFoundError):
        from_pretrained(tmp_path / "nowhere", learner().network)


def test_weights_that_have_two_names_are_kept_once(tmp_path: Path) -> None:
    def tied() -> Any:
        made = learner(None)
        made.network.trunk.module.again = made.network.trunk.module.embedding
        return made

    trained, resumed = tied(), tied()
    saving = {"save_strategy": "steps", "save_steps": 5}
    trainer(trained, tmp_path, **saving).train()
    trainer(resumed, tmp_path, **saving).train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert torch.equal(weights(trained), weights(resumed))
    read = from_pretrained(tmp_path / "checkpoint-10", tied().network)
    assert same(snapshot(read), snapshot(trained.network))


@pytest.mark.parametrize("missing", ["maxl.pt", "optimizer.pt", "rng_state.pth"])
def test_a_checkpoint_that_lacks_something_is_no_place_to_go_on_from(missing: str, tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 5, "num_train_epochs": 1}
    trainer(learner(), tmp_path, **saving).train()
    (tmp_path / "checkpoint-5" / missing).unlink()
    resumed = learner()
    before = weights(resumed)
    with pytest.raises(ValueError, match=rf"has no {missing}: train with save_only_model=False"):
        trainer(resumed, tmp_path, **saving).train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert torch.equal(before, weights(resumed))
