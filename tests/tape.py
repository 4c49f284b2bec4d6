"""A CPU's stand-in for a CUDA graph: it records operations and repeats them on the same tensors.

Like the real one it repeats neither Python nor what Python read: a number that the host took from
a tensor is the recorded number for ever.  Unlike it, recording computes; `recorder` puts back what
the recording changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only


class Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.written: list[tuple[Tensor, Tensor]] = []  # each storage once, and what was in it
        self.made: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        self._remember(inputs)  # of all: batch normalisation does not declare what it writes
        out = func(*args, **kwargs)
        known = {t.untyped_storage().data_ptr() for t in inputs}
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        own = [t for t in outputs if t.untyped_storage().data_ptr() not in known]
        self.made |= {t.untyped_storage().data_ptr() for t in own}
        # Tensors stay alive with the tape, as a graph's memory stays its own; detached from
        # autograd they are the same memory.
        args, kwargs = tree_map_only(Tensor, lambda t: t.detach(), (args, kwargs))
        self.operations.append((func, args, kwargs, [t.detach() for t in own]))
        return out

    def _remember(self, inputs: Iterable[Tensor]) -> None:
        """What is in the tensors that were there before the recording."""
        seen = {t.untyped_storage().data_ptr() for t, _ in self.written}
        for tensor in inputs:
            pointer = tensor.untyped_storage().data_ptr()
            if pointer not in self.made and pointer not in seen:
                seen.add(pointer)
                whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
                self.written.append((whole, whole.clone()))

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, own in self.operations:
            out = func(*args, **kwargs)
            known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs))
                     if isinstance(t, Tensor)}  # fmt: skip
            new = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
            new = [t for t in new if t.untyped_storage().data_ptr() not in known]
            for old, fresh in zip(own, new, strict=True):
                old.copy_(fresh)

    @torch.no_grad()
    def rewind(self) -> None:
        for whole, before in self.written:
            whole.copy_(before)


def record(play: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The counterpart of `tutor.graphs.record`."""
    state = torch.get_rng_state()
    tape = Tape()
    with tape:
        play()
    tape.rewind()
    torch.set_rng_state(state)
    return tape.replay
