"""The target's own kernels, where it has one for what ops do together."""

from __future__ import annotations

from trtc.ir.graph import Graph
from trtc.ir.target import target
from trtc.passes.base import Pass
from trtc.passes.rewrite import apply


class RewritePlugins(Pass, name="rewrite-plugins"):
    """Replace ops, alone or together, by the target's own ops, by the rules in the target's record.

    Options:
        target: ``name`` or ``name:version``.
    """

    target: str

    def run(self, graph: Graph) -> Graph:
        return apply(graph, target(self.target).plugins, self.name)
