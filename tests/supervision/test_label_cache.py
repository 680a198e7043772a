"""The last label of every sample."""

from __future__ import annotations

import torch

from maxl.supervision import LabelCache


def test_a_batch_with_an_unknown_sample_is_not_answered() -> None:
    cache = LabelCache(4)
    assert cache.read(torch.tensor([0])) is None
    cache.write(torch.tensor([2, 0]), (torch.eye(2),))
    assert cache.read(torch.tensor([0, 1])) is None
    kept = cache.read(torch.tensor([0, 2]))
    assert kept is not None
    torch.testing.assert_close(kept[0], torch.eye(2).flip(0))


def test_the_last_label_counts_and_weights_are_kept_beside_it() -> None:
    cache = LabelCache(3)
    cache.write(torch.arange(3), (torch.zeros(3, 2), torch.zeros(3)))
    cache.write(torch.tensor([1]), (torch.ones(1, 2), torch.full((1,), 5.0)))
    kept = cache.read(torch.arange(3))
    assert kept is not None
    assert kept[0].tolist() == [[0, 0], [1, 1], [0, 0]]
    assert kept[1].tolist() == [0, 5, 0]


def test_labels_are_kept_without_their_graph_and_do_not_change_with_their_source() -> None:
    cache, source = LabelCache(2), torch.ones(2, 2, requires_grad=True)
    cache.write(torch.arange(2), (source,))
    with torch.no_grad():
        source.zero_()
    kept = cache.read(torch.arange(2))
    assert kept is not None
    assert not kept[0].requires_grad
    assert kept[0].tolist() == [[1, 1], [1, 1]]


def test_a_restored_cache_answers_as_the_one_that_was_saved() -> None:
    for known in ([0, 1, 2], [1], []):
        cache, restored = LabelCache(3), LabelCache(3)
        if known:
            cache.write(torch.tensor(known), (torch.randn(len(known), 2),))
            cache.read(torch.tensor(known))
        restored.load_state_dict(cache.state_dict())
        for index in ([0], [1], [0, 1, 2]):
            expected, answer = cache.read(torch.tensor(index)), restored.read(torch.tensor(index))
            assert (answer is None) == (expected is None) == (not set(index) <= set(known))
            if answer is not None and expected is not None:
                assert torch.equal(answer[0], expected[0])
