"""The textual form: one line an op, printed and parsed without loss."""

from trtc.ir.parser import parse
from trtc.ir.printer import VERSION, print_graph

__all__ = ["VERSION", "parse", "print_graph"]
