"""What holds for every hierarchy."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import maxl

psis = st.lists(st.integers(1, 6), min_size=1, max_size=8)


@given(psis)
def test_the_mask_splits_the_auxiliary_classes_into_blocks_in_order(psi: list[int]) -> None:
    hierarchy = maxl.Hierarchy(psi)
    assert (hierarchy.num_primary, hierarchy.num_auxiliary) == (len(psi), sum(psi))
    assert hierarchy.mask.shape == (len(psi), sum(psi))
    assert hierarchy.mask.sum(1).tolist() == psi
    assert hierarchy.mask.sum(0).tolist() == [1] * sum(psi)
    owners = [c for c, count in enumerate(psi) for _ in range(count)]
    assert hierarchy.mask.nonzero()[:, 0].tolist() == owners == hierarchy.owner.tolist()


@given(psis, st.data())
def test_rows_are_the_blocks_of_the_labels(psi: list[int], data: st.DataObject) -> None:
    hierarchy = maxl.Hierarchy(psi)
    y = torch.tensor(data.draw(st.lists(st.integers(0, len(psi) - 1), max_size=9)), dtype=torch.int64)
    rows = hierarchy.rows(y)
    assert rows.shape == (len(y), sum(psi))
    assert torch.equal(rows, hierarchy.owner.expand(len(y), -1) == y.unsqueeze(1))


@given(st.integers(1, 9), st.integers(1, 9))
def test_uniform_and_flat_are_the_lists_that_they_stand_for(classes: int, k: int) -> None:
    assert maxl.Hierarchy.uniform(classes, k) == maxl.Hierarchy([k] * classes)
    flat = maxl.Hierarchy.flat(k)
    assert flat == maxl.Hierarchy([k])
    assert flat.mask.tolist() == [[True] * k]


@given(psis, psis)
def test_hierarchies_are_equal_where_their_lists_are(one: list[int], other: list[int]) -> None:
    a, b = maxl.Hierarchy(one), maxl.Hierarchy(other)
    assert (a == b) == (one == other)
    assert hash(a) == hash(maxl.Hierarchy(one))


@given(psis, st.randoms(use_true_random=False))
def test_from_labels_finds_the_owners_whatever_the_order_of_ids_and_samples(
    psi: list[int], draw: random.Random
) -> None:
    owner = [c for c, count in enumerate(psi) for _ in range(count)]
    draw.shuffle(owner)
    auxiliary = list(range(len(owner))) + draw.choices(range(len(owner)), k=5)
    draw.shuffle(auxiliary)
    hierarchy = maxl.Hierarchy.from_labels(
        torch.tensor([owner[a] for a in auxiliary]), torch.tensor(auxiliary)
    )
    assert hierarchy.owner.tolist() == owner
    assert hierarchy.psi == tuple(psi)
    assert hierarchy.mask.sum(1).tolist() == psi


small, ids = st.integers(-1, 3), st.one_of(st.integers(-1, 3), st.integers(0, 2**62))


@given(st.one_of(st.lists(st.tuples(small, small), max_size=6), st.lists(st.tuples(ids, ids), max_size=6)))
def test_from_labels_gives_a_hierarchy_that_allows_every_sample_or_refuses(
    pairs: list[tuple[int, int]],
) -> None:
    primary, auxiliary = (torch.tensor([p[i] for p in pairs], dtype=torch.int64) for i in (0, 1))
    parents: dict[int, set[int]] = {}
    for c, a in pairs:
        parents.setdefault(a, set()).add(c)
    classes = {c for c, _ in pairs}
    fits = (
        bool(pairs)
        and classes == set(range(len(classes)))
        and set(parents) == set(range(len(parents)))
        and all(len(p) == 1 for p in parents.values())
    )
    if not fits:
        with pytest.raises(ValueError, match=r"need|psi"):
            maxl.Hierarchy.from_labels(primary, auxiliary)
        return
    hierarchy = maxl.Hierarchy.from_labels(primary, auxiliary)
    assert hierarchy.rows(primary).gather(1, auxiliary.unsqueeze(1)).all()


@given(
    st.lists(
        st.one_of(
            st.integers(-3, 5),
            st.floats(-9, 9),
            st.sampled_from([float("nan"), float("inf"), -float("inf")]),
            st.booleans(),
            st.text(max_size=3),
            st.none(),
        ),
        max_size=4,
    )
)
def test_a_list_that_is_no_psi_is_refused_in_one_sentence(psi: list[object]) -> None:
    whole = [k for k in psi if isinstance(k, (int, float)) and not isinstance(k, bool) and k in range(1, 10)]
    if psi and len(whole) == len(psi):
        assert maxl.Hierarchy(psi).psi == tuple(whole)
        return
    with pytest.raises(ValueError, match=r"^psi needs [^\n]*$"):
        maxl.Hierarchy(psi)
