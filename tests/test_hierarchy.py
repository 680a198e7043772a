from __future__ import annotations

from typing import Any

import pytest
import torch

import maxl


def test_mask_numbers_the_blocks_in_order() -> None:
    hierarchy = maxl.Hierarchy([2, 2, 1])
    assert hierarchy.num_primary == 3
    assert hierarchy.num_auxiliary == 5
    assert hierarchy.mask.dtype == torch.bool
    assert hierarchy.mask.int().tolist() == [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]


def test_uniform_and_flat() -> None:
    assert maxl.Hierarchy.uniform(20, 5) == maxl.Hierarchy([5] * 20)
    flat = maxl.Hierarchy.flat(4)
    assert flat.mask.tolist() == [[True] * 4]
    assert flat.rows(torch.tensor([0.3, -1.2])).all()


def test_every_auxiliary_class_belongs_to_exactly_one_primary_class() -> None:
    mask = maxl.Hierarchy([4, 1, 7]).mask
    assert mask.sum(0).tolist() == [1] * 12
    assert mask.sum(1).tolist() == [4, 1, 7]


def test_from_labels_keeps_the_ids_of_scattered_blocks() -> None:
    primary = torch.tensor([0, 1, 0, 1, 1])
    auxiliary = torch.tensor([2, 0, 2, 3, 1])
    hierarchy = maxl.Hierarchy.from_labels(primary, auxiliary)
    assert hierarchy.psi == (1, 3)
    assert hierarchy.mask.int().tolist() == [[0, 0, 1, 0], [1, 1, 0, 1]]
    assert hierarchy.rows(primary).gather(1, auxiliary.unsqueeze(1)).all()


@pytest.mark.parametrize(
    ("primary", "auxiliary", "message"),
    [
        ([0, 1], [0, 0], "auxiliary class 0 has several primary classes"),
        ([0, 1], [0, 2], "auxiliary class 1 occurs in no sample"),
        ([0, 2], [0, 1], "primary class 1 occurs in no sample"),
        ([0, 1], [0, 2**40], "auxiliary class 1 occurs in no sample"),
        ([0, 2**40], [0, 1], "primary class 1 occurs in no sample"),
        ([0.0, 1.0], [0, 1], "whole numbers; got torch.float32 and torch.int64"),
        ([0, -1], [0, 1], "got a negative one"),
        ([0, 1, 1], [0, 1], "need the same shape"),
    ],
)
def test_from_labels_refuses_what_is_no_hierarchy(
    primary: list[Any], auxiliary: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        maxl.Hierarchy.from_labels(torch.tensor(primary), torch.tensor(auxiliary))


@pytest.mark.parametrize(
    ("psi", "message"),
    [
        ([], "empty"),
        ([2, 0], "got 0 for primary class 1"),
        ([1.5], "got 1.5"),
        ([True], "got True"),
        ([None], "needs whole numbers of at least 1; got None"),
        (["many"], "needs whole numbers of at least 1; got 'many'"),
        ([2, float("nan")], "needs whole numbers of at least 1; got nan for primary class 1"),
        ([float("inf")], "needs whole numbers of at least 1; got inf"),
    ],
)
def test_psi_needs_whole_numbers_of_at_least_one(psi: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        maxl.Hierarchy(psi)


def test_it_prints_what_makes_it_again() -> None:
    of_people = maxl.Hierarchy.from_labels(torch.tensor([1, 0, 1]), torch.tensor([0, 1, 2]))
    for hierarchy in (maxl.Hierarchy([2, 2, 1]), maxl.Hierarchy.flat(3), of_people):
        again = eval(repr(hierarchy), {"Hierarchy": maxl.Hierarchy, "torch": torch})
        assert again == hierarchy
    assert of_people.owner.tolist() == [1, 0, 1]
