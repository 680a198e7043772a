"""The device-side loader: order, augmentation and normalisation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from maxl.experiments.data import BatchStream, Split, augment_batch, evaluation_batches, normalise

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def make_split(count: int = 23, size: int = 12, human: bool = True) -> Split:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 4
    return Split(x, labels, labels + 10 if human else None)


def make_stream(
    split: Split, batch_size: int = 5, *, augment: bool = True, seed: int = 0, **options
) -> BatchStream:
    return BatchStream(split, batch_size, mean=MEAN, std=STD, augment=augment, seed=seed, **options)


def test_normalise_is_the_formula_by_channel() -> None:
    x = make_split().x
    expected = (x.float() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    result = normalise(x, MEAN, STD)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_normalise_passes_features_through() -> None:
    x = torch.randn(3, 7)
    assert normalise(x, (0.0,), (1.0,)) is x


def test_normalise_names_a_mismatch_of_channels() -> None:
    with pytest.raises(ValueError, match="got 1 and 1 for 3 channels"):
        normalise(make_split().x, (0.5,), (0.2,))


@pytest.mark.parametrize("pad", [0, 1, 4])
def test_augment_batch_equals_pad_crop_flip_of_each_image(pad: int) -> None:
    x = make_split().x[:, :, :, :9]  # not square: rows and columns must not be confused
    generator = torch.Generator().manual_seed(1)
    dy, dx = torch.randint(2 * pad + 1, (2, len(x)), generator=generator)
    flip = torch.rand(len(x), generator=generator) < 0.5
    expected = []
    for i, image in enumerate(F.pad(x, (pad,) * 4)):
        crop = image[:, dy[i] : dy[i] + x.shape[2], dx[i] : dx[i] + x.shape[3]]
        expected.append(crop.flip(2) if flip[i] else crop)
    assert torch.equal(augment_batch(x, dy, dx, flip, pad), torch.stack(expected))


def test_epoch_visits_each_sample_at_most_once_and_keeps_samples_and_labels_together() -> None:
    split = make_split()
    batches = list(make_stream(split, augment=False).epoch(0))
    assert [len(batch.x) for batch in batches] == [5, 5, 5, 5]
    index = torch.cat([batch.index for batch in batches])
    assert len(index.unique()) == 20
    for batch in batches:
        assert torch.equal(batch.primary, split.primary[batch.index])
        assert torch.equal(batch.human, split.human[batch.index])
        assert torch.equal(batch.x, normalise(split.x[batch.index], MEAN, STD))


def test_drop_last_false_visits_every_sample() -> None:
    stream = make_stream(make_split(), drop_last=False)
    batches = list(stream.epoch(0))
    assert len(stream) == len(batches) == 5
    assert torch.equal(torch.cat([batch.index for batch in batches]).sort().values, torch.arange(23))


def test_a_split_smaller_than_a_batch_is_one_batch() -> None:
    stream = make_stream(make_split(count=3), batch_size=100)
    batches = list(stream.epoch(0))
    assert len(stream) == len(batches) == 1
    assert len(batches[0].x) == 3


def test_epochs_are_a_pure_function_of_seed_and_epoch() -> None:
    split = make_split()
    resumed = list(make_stream(split, seed=3).epoch(2))
    stream = make_stream(split, seed=3)
    straight = [list(stream.epoch(epoch)) for epoch in range(3)]
    for one, other in zip(resumed, straight[2], strict=True):
        assert torch.equal(one.index, other.index)
        assert torch.equal(one.x, other.x)
    orders = {tuple(torch.cat([b.index for b in epoch]).tolist()) for epoch in straight}
    other_seed = tuple(torch.cat([b.index for b in make_stream(split, seed=4).epoch(2)]).tolist())
    assert len(orders | {other_seed}) == 4


def test_seed_and_epoch_do_not_stand_in_for_each_other() -> None:
    split = make_split(count=50)
    orders = {
        tuple(next(make_stream(split, 50, seed=seed).epoch(epoch)).index.tolist())
        for seed in range(5)
        for epoch in range(5)
    }
    assert len(orders) == 25


def test_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    list(make_stream(make_split()).epoch(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_order_does_not_depend_on_augmentation() -> None:
    split = make_split()
    plain, augmented = (list(make_stream(split, augment=augment).epoch(1)) for augment in (False, True))
    assert all(torch.equal(a.index, b.index) for a, b in zip(plain, augmented, strict=True))
    assert not all(torch.equal(a.x, b.x) for a, b in zip(plain, augmented, strict=True))


def _recover_augmentation(flip: bool, count: int = 8000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Offsets and flips that a stream used, read off images with one bright and one grey pixel."""
    x = torch.zeros(count, 1, 12, 12, dtype=torch.uint8)
    x[:, :, 5, 5], x[:, :, 5, 6] = 200, 100
    stream = BatchStream(
        Split(x, torch.zeros(count, dtype=torch.int64)),
        count,
        mean=(0.0,),
        std=(1.0,),
        augment=True,
        seed=0,
        flip=flip,
        pad=4,
    )
    images = (next(stream.epoch(0)).x.flatten(1) * 255).round()
    bright, grey = images.eq(200).int().argmax(1), images.eq(100).int().argmax(1)
    flipped = bright > grey
    columns = torch.where(flipped, 11 - bright % 12, bright % 12)
    return 9 - bright // 12, 9 - columns, flipped


def test_offsets_are_uniform_and_half_of_the_images_are_flipped() -> None:
    dy, dx, flipped = _recover_augmentation(flip=True)
    # 81 equally likely cells; chi-squared with 80 degrees of freedom exceeds 135 once in ten thousand.
    cells = torch.bincount(dy * 9 + dx, minlength=81)
    expected = len(dy) / 81
    assert len(cells) == 81
    assert ((cells - expected) ** 2 / expected).sum() < 135
    assert abs(flipped.float().mean() - 0.5) < 4 * 0.5 / len(flipped) ** 0.5


@pytest.mark.parametrize(("side", "pad"), [(32, 4), (16, 2), (112, 14), (7, 1)])
def test_crops_move_by_an_eighth_of_the_side(side: int, pad: int) -> None:
    assert make_stream(make_split(size=side)).pad == pad


def test_flip_false_never_flips_and_still_crops() -> None:
    dy, _, flipped = _recover_augmentation(flip=False, count=500)
    assert not flipped.any()
    assert len(dy.unique()) == 9


def test_evaluation_batches_are_in_order_unaugmented_and_complete() -> None:
    split = make_split()
    batches = list(evaluation_batches(split, 10, MEAN, STD, "cpu"))
    assert [len(batch.x) for batch in batches] == [10, 10, 3]
    assert torch.equal(torch.cat([batch.index for batch in batches]), torch.arange(23))
    assert torch.equal(torch.cat([batch.x for batch in batches]), normalise(split.x, MEAN, STD))
    assert torch.equal(torch.cat([batch.primary for batch in batches]), split.primary)


def test_features_stream_without_augmentation() -> None:
    split = Split(torch.randn(10, 6), torch.arange(10))
    batch = next(BatchStream(split, 4, mean=(0.0,), std=(1.0,), augment=False, seed=0).epoch(0))
    assert torch.equal(batch.x, split.x[batch.index])
    assert batch.human is None
    with pytest.raises(ValueError, match="only images"):
        BatchStream(split, 4, mean=(0.0,), std=(1.0,), augment=True, seed=0)


@pytest.mark.parametrize(("count", "batch_size"), [(0, 5), (5, 0)])
def test_a_stream_needs_samples_and_a_batch_size(count: int, batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"got {count}, {batch_size}"):
        make_stream(make_split(count), batch_size)


def test_split_select_keeps_rows_together() -> None:
    split = make_split()
    chosen = split.select(torch.tensor([4, 1]))
    assert torch.equal(chosen.x, split.x[[4, 1]])
    assert chosen.primary.tolist() == [0, 1]
    assert chosen.human is not None
    assert chosen.human.tolist() == [10, 11]
    assert len(chosen.to("cpu")) == 2


@pytest.mark.parametrize(
    ("x", "primary", "message"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), "uint8 images"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), "one label a sample"),
        (torch.zeros(2, 3), torch.zeros(2), "must be int64"),
    ],
)
def test_split_refuses_what_batches_cannot_be_made_of(
    x: torch.Tensor, primary: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Split(x, primary)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_sees_the_batches_of_a_cpu() -> None:
    split = make_split()
    for a, b in zip(make_stream(split).epoch(1), make_stream(split, device="cuda").epoch(1), strict=True):
        assert b.x.is_cuda
        assert torch.equal(a.index, b.index.cpu())
        torch.testing.assert_close(a.x, b.x.cpu())
