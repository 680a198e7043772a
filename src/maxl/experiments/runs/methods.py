"""The methods by name, and what they have in common."""

from __future__ import annotations

METHODS = (
    *("single", "uniform", "frozen", "random", "kmeans-shuffled", "kmeans", "contrastive"),
    *("prototypes-shuffled", "prototypes", "prototypical"),
    *("human-shuffled", "human"),
    *("maxl", "weighted", "wamal", "gated"),
    *("small-loss", "gce", "agreement", "trusted-only", "fine-tuned", "reweighted", "corrected"),
)
HUMAN_METHODS = (
    "prototypical",
    "human-shuffled",
    "human",
)  # their auxiliary classes are the human ones: no ψ
PROTOTYPE_METHODS = (
    "prototypes-shuffled",
    "prototypes",
)  # labels are learned before the run, from clusters on
CLUSTER_METHODS = (
    "kmeans-shuffled",
    "kmeans",
    "contrastive",
    *PROTOTYPE_METHODS,
)  # samples are clustered first
# Controls whose labels say nothing of a sample but its class; those of frozen and contrastive do.
EMPTY_METHODS = ("uniform", "random", "kmeans-shuffled", "prototypes-shuffled", "human-shuffled")
PREPARED_METHODS = (*CLUSTER_METHODS, "agreement")  # networks or clusters come before the first epoch
LEARNED_METHODS = ("maxl", "weighted", "wamal", "gated")  # a generator is trained
# For given labels that are partly wrong, without a second task: another loss, trusted samples to train on, or a generator
# that they judge.
ROBUST_METHODS = ("small-loss", "gce")
JUDGED_METHODS = ("reweighted", "corrected")
CHEAP_METHODS = (
    *ROBUST_METHODS,
    "agreement",
    "trusted-only",
    "fine-tuned",
)  # without a generator, given the same samples
NOISE_METHODS = (*CHEAP_METHODS, *JUDGED_METHODS)
WITHOUT_LABELS = ("single", *NOISE_METHODS)  # no second task
TUNED_METHODS = (
    *ROBUST_METHODS,
    "agreement",
    "fine-tuned",
    *JUDGED_METHODS,
)  # end on trusted samples, where there are some
WEIGHTED_METHODS = ("weighted", "wamal")  # it also weighs each sample's auxiliary loss
SHARED, OWN = "shared", "own"  # as generator_trunk: the network's own trunk, another one like it
