"""Where auxiliary labels come from when no generator learns them: the paper's baselines and two controls.

| name | labels of a sample |
|---|---|
| random | one auxiliary class of its primary class, drawn once for the whole run |
| kmeans | its cluster among its primary class's samples, in the latent space of an auto-encoder; of pixels see ``pixels`` |
| prototypical | its nearest prototype of a human class, see ``prototypes`` |
| human | a finer human label |
| prototypes | learned from clusters on, see ``crossfit`` |
| kmeans-shuffled, prototypes-shuffled, human-shuffled | the same labels, dealt out anew among the samples of a class (of several labels within each label's block): as many classes of the same sizes that say nothing |

The controls need no table: ``maxl.supervision.UniformLabels``, and a generator that is never trained.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from maxl.experiments.runs.evaluation import members_of
from maxl.hierarchy import Hierarchy
from maxl.hypergradients import RandomState
from maxl.tasks import Classification, Task

AUTO_ENCODER_EPOCHS = 20


def random_labels(primary: Tensor, hierarchy: Hierarchy, seed: int, task: Task | None = None) -> Tensor:
    """A fixed random auxiliary class among those that each sample may use.

    Args:
        primary: Targets; by default classes, int64 of shape (N,).
        hierarchy: ψ.
        seed: Draws the labels; torch's global generator is not touched.
        task: What targets mean; classes by default.

    Returns:
        Auxiliary labels, int64 of shape (N,) in [0, K).
    """
    rows = (task or Classification()).rows(primary.cpu(), hierarchy.mask).float()
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(rows.flatten(0, -2), 1, generator=generator)
    return drawn.view(rows.shape[:-1]).to(primary.device)


def cluster_labels(latent: Tensor, primary: Tensor, hierarchy: Hierarchy, seed: int) -> Tensor:
    """k-means with ψ[c] clusters within each primary class c; among all samples where there is one block.

    Args:
        latent: Points to cluster, shape (N, D).
        primary: Classes, int64 of shape (N,); of several labels 0 or 1, shape (N, C); any targets of length N for one
            block.
        hierarchy: ψ.
        seed: Starts k-means.

    Returns:
        Auxiliary labels, int64 of shape (N,) in [0, K). Of several labels soft ones, shape (N, K), spread evenly over
        the clusters of a sample's labels, and over all K where it has none.

    Raises:
        ValueError: if a class has fewer samples than clusters.
    """
    clusters_of, _ = _clusters(latent, primary, hierarchy, seed)
    if primary.dim() == 1 or hierarchy.num_primary == 1:
        return clusters_of.argmax(1).to(primary.device)
    clusters_of[clusters_of.sum(1) == 0] = 1.0
    return (clusters_of / clusters_of.sum(1, keepdim=True)).to(primary.device)


def cluster_centres(latent: Tensor, primary: Tensor, hierarchy: Hierarchy, seed: int) -> Tensor:
    """The centres of the clusters that ``cluster_labels`` gives for the same arguments: shape (K, D), one a row."""
    return _clusters(latent, primary, hierarchy, seed)[1].to(latent.device)


def _clusters(latent: Tensor, primary: Tensor, hierarchy: Hierarchy, seed: int) -> tuple[Tensor, Tensor]:
    """Which clusters each sample is in, 0 or 1, shape (N, K), and their centres (K, D)."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    points, labels = latent.cpu().numpy(), primary.cpu()
    clusters_of = torch.zeros(len(labels), hierarchy.num_auxiliary)
    centres = torch.zeros(hierarchy.num_auxiliary, points.shape[1])
    for c in range(hierarchy.num_primary):
        members = members_of(labels, c, hierarchy).nonzero().squeeze(1)
        block = (hierarchy.owner == c).nonzero().squeeze(1)
        if not len(members):  # a class of the test part alone
            continue
        if len(members) < len(block):
            raise ValueError(
                f"k-means needs at least as many samples as clusters in each class; got {len(members)} "
                f"samples for {len(block)} clusters in class {c}: lower psi or use more data"
            )
        with warnings.catch_warnings(), threadpool_limits(1):  # its sums over threads round differently
            # Identical points give fewer clusters than asked for, which is a valid labelling.
            warnings.filterwarnings("ignore", message="Number of distinct clusters")
            clusters = KMeans(len(block), n_init=4, random_state=seed).fit(points[members.numpy()])
        clusters_of[members, block[torch.as_tensor(clusters.labels_, dtype=torch.int64)]] = 1.0
        centres[block] = torch.as_tensor(clusters.cluster_centers_, dtype=centres.dtype)
    return clusters_of, centres


def shuffled_within_classes(labels: Tensor, classes: Tensor, seed: int) -> Tensor:
    """The labels of each class's samples in random order: what they weigh stays, what they say goes.

    Args:
        labels: Auxiliary labels, of shape (N,) or soft (N, K).
        classes: Of the same samples, int64 of shape (N,).
        seed: Draws the order; torch's global generator is not touched.
    """
    _, of_sample = torch.unique(classes.cpu(), return_inverse=True)
    generator = torch.Generator().manual_seed(seed)
    source = torch.arange(len(labels))
    for c in range(int(of_sample.max()) + 1):
        members = (of_sample == c).nonzero().squeeze(1)
        source[members] = members[torch.randperm(len(members), generator=generator)]
    return labels[source.to(labels.device)]


def shuffled_within_labels(labels: Tensor, primary: Tensor, hierarchy: Hierarchy, seed: int) -> Tensor:
    """The same of several labels a sample: what a label's samples say within its block, in random order block by block.

    Samples with the very same set of labels may be few, or one, which would keep its own.

    Args:
        labels: Soft labels, shape (N, K), each a distribution over what its sample may use.
        primary: Labels of the same samples, 0 or 1, shape (N, C).
        hierarchy: ψ, with a block for each label, and maybe one for samples without any.
        seed: Draws the orders; torch's global generator is not touched.

    Returns:
        Shape (N, K). Each block's rows are dealt out among its samples as they are if a row weighs as much as it has
        blocks; rows that then weigh more or less than one are scaled. Samples that may use all K classes, having no label
        and no block for it, exchange whole rows.
    """
    generator = torch.Generator().manual_seed(seed)
    y = primary.cpu()
    members = torch.stack([members_of(y, c, hierarchy) for c in range(hierarchy.num_primary)], dim=1)
    blocks_of = members.sum(1, keepdim=True)
    dealt = labels.double().cpu() * blocks_of.clamp_min(1)
    without = (blocks_of.squeeze(1) == 0).nonzero().squeeze(1)
    everywhere = torch.arange(hierarchy.num_auxiliary)
    groups = [
        (of.nonzero().squeeze(1), hierarchy.mask[c].nonzero().squeeze(1)) for c, of in enumerate(members.T)
    ]
    for rows, columns in (*groups, (without, everywhere)):
        order = rows[torch.randperm(len(rows), generator=generator)]
        dealt[rows[:, None], columns] = dealt[order[:, None], columns]
    return (dealt / dealt.sum(1, keepdim=True)).to(labels)


class AutoEncoder(nn.Module):
    """Convolutional for images (C, H, W), fully connected for features (D,).

    Args:
        input_shape: Shape of one input.
        latent_dim: Size of the latent space.
    """

    def __init__(self, input_shape: tuple[int, ...], latent_dim: int = 64) -> None:
        super().__init__()
        self.encoder: nn.Sequential
        self.decoder: nn.Sequential
        if len(input_shape) == 3:
            channels, height, width = input_shape
            small = (math.ceil(math.ceil(height / 2) / 2), math.ceil(math.ceil(width / 2) / 2))
            self.encoder = nn.Sequential(
                nn.Conv2d(channels, 32, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(32, 64, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(64 * small[0] * small[1], latent_dim),
            )
            self.decoder = nn.Sequential(
                nn.Linear(latent_dim, 64 * small[0] * small[1]),
                nn.ReLU(),
                nn.Unflatten(1, (64, *small)),
                nn.Upsample(scale_factor=2),
                nn.Conv2d(64, 32, 3, padding=1),
                nn.ReLU(),
                nn.Upsample(size=(height, width)),
                nn.Conv2d(32, channels, 3, padding=1),
            )
        else:
            size = math.prod(input_shape)
            self.encoder = nn.Sequential(
                nn.Flatten(), nn.Linear(size, 256), nn.ReLU(), nn.Linear(256, latent_dim)
            )
            self.decoder = nn.Sequential(
                nn.Linear(latent_dim, 256), nn.ReLU(), nn.Linear(256, size), nn.Unflatten(1, input_shape)
            )

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction, of the input's shape."""
        reconstruction: Tensor = self.decoder(self.encoder(x))
        return reconstruction


def auto_encode(
    x: Tensor,
    *,
    epochs: int = AUTO_ENCODER_EPOCHS,
    latent_dim: int = 64,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> Tensor:
    """Latent codes of an auto-encoder trained on the inputs themselves (the paper's k-means baseline).

    Args:
        x: Inputs as the networks take them, shape (N, ...), float.
        epochs: Passes over the inputs; the mean squared error is minimised with Adam.
        latent_dim: Size of the code.
        batch_size: Inputs in a batch.
        learning_rate: Adam's.
        seed: Draws weights and order; torch's global generator is left as it was.

    Returns:
        Codes of shape (N, latent_dim).
    """
    with RandomState.capture(x.device).replay():
        torch.manual_seed(seed)
        model = AutoEncoder(tuple(x.shape[1:]), latent_dim).to(x.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
        for _ in range(epochs):
            for index in torch.split(torch.randperm(len(x)).to(x.device), batch_size):
                loss = nn.functional.mse_loss(model(x[index]), x[index])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    with torch.no_grad():
        return torch.cat([model.encoder(part) for part in torch.split(x, batch_size)])
