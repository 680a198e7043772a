"""The graph that autograd keeps of a computation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor


def graph_nodes(tensors: Iterable[Tensor | None]) -> Iterator[Any]:
    """The nodes of the graph behind some tensors, each once; nothing behind None and tensors that are not computed."""
    pending = list(dict.fromkeys(t.grad_fn for t in tensors if t is not None and t.grad_fn is not None))
    seen = set(pending)
    while pending:
        node = pending.pop()
        yield node
        fresh = {parent for parent, _ in node.next_functions if parent is not None} - seen
        seen |= fresh
        pending += fresh
