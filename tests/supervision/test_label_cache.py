"""The last label of every sample."""

from __future__ import annotations

import copy
import errno
import gc
import io
import os
from pathlib import Path

import pytest
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_more_than_memory_is_to_hold_lies_in_a_file_and_answers_alike(dtype: torch.dtype) -> None:
    inside, outside = LabelCache(40), LabelCache(40, most=100)
    for seed in range(3):
        random = torch.Generator().manual_seed(seed)
        index = torch.randperm(40, generator=random)[:25]
        signals = torch.randn(25, 6, generator=random).to(dtype), torch.randn(25, generator=random).to(dtype)
        for cache in (inside, outside):
            cache.write(index, signals)
        again = copy.deepcopy(outside)
        again.write(torch.arange(40), (torch.zeros(40, 6, dtype=dtype), torch.zeros(40, dtype=dtype)))
        for some in (index, torch.arange(40)):
            one, other = inside.read(some), outside.read(some)
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))
    restored = LabelCache(40, most=100)
    restored.load_state_dict(outside.state_dict())
    whole = torch.arange(40)
    assert str(restored.read(whole)) == str(outside.read(whole)) == str(inside.read(whole))
    stored = io.BytesIO()
    torch.save(outside.state_dict(), stored)
    stored.seek(0)
    restored.load_state_dict(torch.load(stored, weights_only=True))
    assert str(restored.read(whole)) == str(inside.read(whole))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what is mapped is read from Linux's /proc")
def test_the_file_is_gone_with_the_cache() -> None:
    def mappings() -> int:
        return sum("(deleted)" in line for line in Path("/proc/self/maps").read_text().splitlines())

    before = mappings()
    cache = LabelCache(1000, most=100)
    cache.write(torch.arange(1000), (torch.randn(1000, 50),))
    assert mappings() == before + 1
    del cache
    gc.collect()
    assert mappings() == before


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system gives no room beforehand")
def test_a_disk_without_room_is_told_before_anything_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"need 0\.00 GiB .* \(No space left on device\): set TMPDIR"):
        LabelCache(1000, most=100).write(torch.tensor([3]), (torch.ones(1, 50),))
