"""The target's own kernels, where it has one for what ops do together."""

from __future__ import annotations

from trtc.ir.graph import Graph
from trtc.ir.target import target
from trtc.passes.base import Pass
from trtc.passes.canonicalize import Canonicalize
from trtc.passes.rewrite import apply


class RewritePlugins(Pass, name="rewrite-plugins"):
    """Replace ops, alone or together, by the target's own ops, by the rules in the target's record.

    The rules come in stages; each sees what the one before has left, in canonical form.

    Options:
        target: ``name`` or ``name:version``.
    """

    target: str

    def run(self, graph: Graph) -> Graph:
        for stage in target(self.target).plugins:
            graph = apply(Canonicalize().run(graph), stage, self.name)
        return graph
