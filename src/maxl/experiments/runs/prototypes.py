"""The prototypical baseline: nearest prototypes of the human classes, in an embedding trained for that.

What the paper says (ICLR version): auxiliary labels are clusters around prototypes, embedded from data that has
human auxiliary labels. What is ours, as far as we know: the embedding is the run's trunk, trained from scratch on
the run's own training samples with the loss of prototypical networks (Snell et al. 2017); episodes take 20 human
classes with 5 support and 5 query samples each, from all primary classes alike, for 20 passes with Adam; a
prototype is the mean embedding of all training samples of its class; and a sample's label is the nearest
prototype *within its own primary class*. So the labels are the human ones as far as the embedding separates
them; they differ where a sample looks more like another class of its block.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from maxl.hierarchy import Hierarchy
from maxl.hypergradients import RandomState

EMBEDDING_BATCH = 500


def prototypical_labels(
    x: Tensor,
    primary: Tensor,
    human: Tensor,
    hierarchy: Hierarchy,
    trunk: nn.Module,
    *,
    epochs: int = 20,
    ways: int = 20,
    shots: int = 5,
    queries: int = 5,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> Tensor:
    """Trains ``trunk`` as an embedding and gives each sample the nearest prototype of its primary class.

    Args:
        x: Inputs as the networks take them, shape (N, ...), float.
        primary: Primary labels, int64 of shape (N,) in [0, C).
        human: Human labels of the same samples, int64 of shape (N,) in [0, K).
        hierarchy: ψ of the human labels, C primary and K auxiliary classes.
        trunk: Maps inputs to embeddings (N, D), on the device of ``x``. It is trained in place.
        epochs: As many episodes as show this many times N samples.
        ways, shots, queries: Classes in an episode, support and query samples of each; fewer where the data
            has fewer. Classes of one sample take part in no episode, but have a prototype.
        learning_rate: Adam's.
        seed: Draws the episodes; torch's global generator is left as it was.

    Returns:
        Auxiliary labels, int64 of shape (N,) in [0, K), each in the block of its primary class.

    Raises:
        ValueError: if a human label is outside the block of its primary class, or fewer than two human classes
            have the two samples that an episode needs.
    """
    outside = ~hierarchy.rows(primary).gather(1, human.unsqueeze(1)).squeeze(1)
    if outside.any():
        i = int(outside.nonzero()[0])
        raise ValueError(
            "each human label needs to lie in the block of its primary class; got human class "
            f"{int(human[i])} under primary class {int(primary[i])}: use Hierarchy.from_labels"
        )
    with RandomState.capture(x.device).replay():
        torch.manual_seed(seed)
        _train(trunk, x, human, epochs, ways, shots, queries, learning_rate)
    was_training = trunk.training
    trunk.eval()
    with torch.no_grad():
        embedded = torch.cat([trunk(part) for part in torch.split(x, EMBEDDING_BATCH)]).float()
        centres, present = prototypes(embedded, human, hierarchy.num_auxiliary)
        distances = squared_distances(embedded, centres)
    trunk.train(was_training)
    return distances.masked_fill(~(hierarchy.rows(primary) & present), math.inf).argmin(1)


def prototypes(embedded: Tensor, classes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The mean embedding of each class.

    Args:
        embedded: Embeddings, shape (N, D).
        classes: Their classes, int64 of shape (N,) in [0, count).
        count: Number of classes.

    Returns:
        Prototypes of shape (count, D), zero for a class without samples, and which classes have one, bool of
        shape (count,).
    """
    members = nn.functional.one_hot(classes, count).to(embedded.dtype)
    sizes = members.sum(0)
    return (members.T @ embedded) / sizes.clamp(min=1).unsqueeze(1), sizes > 0


def squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """Squared Euclidean distances, shape (N, M), of points (N, D) to centres (M, D).

    By the binomial formula rather than ``torch.cdist``, whose root has no gradient where points coincide.
    """
    square = points.pow(2).sum(1, keepdim=True) + centres.pow(2).sum(1)
    return (square - 2 * points @ centres.T).clamp(min=0)


def episode_loss(embedded: Tensor, classes: Tensor, is_query: Tensor) -> Tensor:
    """Cross-entropy of the queries under a softmax over minus the squared distances to the prototypes.

    Snell et al. 2017, equations 1 and 2, averaged over the queries.

    Args:
        embedded: Embeddings of support and query samples, shape (M, D).
        classes: Their classes within the episode, int64 of shape (M,), numbered from 0 without gaps.
        is_query: Bool of shape (M,); every class needs a support sample, and one a query.
    """
    support = ~is_query
    centres, _ = prototypes(embedded[support], classes[support], int(classes.max()) + 1)
    return nn.functional.cross_entropy(-squared_distances(embedded[is_query], centres), classes[is_query])


def draw_episode(members: list[Tensor], ways: int, shots: int, queries: int) -> tuple[Tensor, Tensor, Tensor]:
    """One episode, drawn without replacement from torch's global generator.

    Args:
        members: For each class the positions of its samples, at least two.
        ways, shots, queries: Classes, and support and query samples of each; a class with fewer samples is
            split in the same proportion, at least one on either side.

    Returns:
        Positions (M,), classes within the episode (M,) and which are queries (M,).
    """
    positions, classes, is_query = [], [], []
    for way, c in enumerate(torch.randperm(len(members))[:ways].tolist()):
        chosen = members[c][torch.randperm(len(members[c]))[: shots + queries]]
        support = min(max(1, round(len(chosen) * shots / (shots + queries))), len(chosen) - 1)
        positions.append(chosen)
        classes.append(torch.full((len(chosen),), way))
        is_query.append(torch.arange(len(chosen)) >= support)
    return torch.cat(positions), torch.cat(classes), torch.cat(is_query)


def _train(
    trunk: nn.Module,
    x: Tensor,
    human: Tensor,
    epochs: int,
    ways: int,
    shots: int,
    queries: int,
    learning_rate: float,
) -> None:
    labels = human.cpu()
    members = [(labels == c).nonzero().squeeze(1) for c in range(int(labels.max()) + 1)]
    members = [positions for positions in members if len(positions) >= 2]
    if len(members) < 2:
        raise ValueError(
            "prototypical labels need at least two human classes with two training samples each; "
            f"got {len(members)}: use more data (--train-size) or coarser human labels"
        )
    trunk.train()
    optimizer = torch.optim.Adam(trunk.parameters(), lr=learning_rate)
    shown = 0
    while shown < epochs * len(x):
        positions, classes, is_query = draw_episode(members, ways, shots, queries)
        embedded = trunk(x[positions.to(x.device)])
        loss = episode_loss(embedded, classes.to(x.device), is_query.to(x.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        shown += len(positions)
