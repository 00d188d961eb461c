"""Products of a session: each by the algorithm of cuBLASLt that is the fastest on this GPU."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from trtc.runtime.cuda.choices import Choices
from trtc.runtime.cuda.cublaslt import Algorithm, CublasLt, Matmul, Operands, Problem, Refused, Shape
from trtc.runtime.gpu.stream import Event, Stream

KEPT = 4096              # shapes whose problems are remembered
TIMED = 10**9            # operations from which on candidates are timed: of fewer, a launch is the greater part
CANDIDATES = 8
WARM_UPS, RUNS = 2, 3    # of each candidate; the last of the warm-ups counts as well
HOPELESS = 1.25          # times the best: a candidate whose last warm-up takes longer is not run again
LONG = 1.0               # milliseconds: nor is one that takes as long, whose times differ little
BUDGET = 30.0            # milliseconds that count in one choice: candidates beyond are left out

log = logging.getLogger("trtc.cuda")


class Products:
    """Makes products, and decides how each is done when its shape is first met.

    Where a product is large, cuBLASLt's candidates run on the operands themselves: what is in y and in the workspace is
    lost, which nobody misses before the step. The fastest is taken for all numbers of rows that are rounded up alike.
    Steps are told once before they are captured as a graph, so nothing is timed within one.

    Args:
        choices: of earlier processes, and of this one.
    """

    def __init__(self, library: CublasLt, stream: Stream, choices: Choices) -> None:
        self._library, self._stream, self._choices = library, stream, choices
        self._decided: dict[Shape, tuple[Problem, Algorithm]] = {}

    def matmul(self, shape: Shape, operands: Operands) -> Matmul:
        """A product, ready to be told to a stream.

        Errors:
            TrtcError: the library has no algorithm for it.
        """
        if shape not in self._decided:
            if len(self._decided) == KEPT:
                self._decided.clear()
            problem = self._library.problem(shape)
            self._decided[shape] = problem, self._algorithm(shape, problem, operands)
        return Matmul(self._library, shape, *self._decided[shape], operands)

    def _algorithm(self, shape: Shape, problem: Problem, operands: Operands) -> Algorithm:
        if 2 * shape.m * shape.n * shape.k < TIMED or operands.residual == operands.y:
            return self._library.candidates(shape, problem, 1)[0]
        key = key_of(shape)
        kept = self._choices.get(key)
        if kept and (algorithm := self._library.known(shape, problem, kept)):
            return algorithm
        found = self._library.candidates(shape, problem, CANDIDATES)
        fastest = self._fastest([Matmul(self._library, shape, problem, each, operands) for each in found])
        log.info("%s: candidate %d of %d", key, fastest + 1, len(found))
        self._choices.put(key, bytes(found[fastest]))
        return found[fastest]

    def _fastest(self, candidates: Sequence[Matmul]) -> int:
        """The number of the fastest; 0 where none runs, whose error is told when it is used."""
        best, best_time, spent = 0, float("inf"), 0.0
        for number, candidate in enumerate(candidates):
            if spent > BUDGET or len(candidates) == 1:
                break
            try:
                times = self._milliseconds(candidate, WARM_UPS)[-1:]
                if times[0] < min(HOPELESS * best_time, LONG):
                    times += self._milliseconds(candidate, RUNS)
            except Refused as error:
                log.info("candidate %d is left out: %s", number + 1, error.message)
                continue
            spent += sum(times)
            if min(times) < best_time:
                best, best_time = number, min(times)
        return best

    def _milliseconds(self, candidate: Matmul, runs: int) -> list[float]:
        """The times of some runs, told at once.

        The workspace is filled before each: weights are less in the GPU's caches then, as in a step, and the host is
        ahead of the GPU.
        """
        device = self._stream.device
        events = [(Event(device), Event(device)) for _ in range(runs)]
        for begin, end in events:
            candidate.clear(self._stream)
            begin.record(self._stream)
            candidate.enqueue(self._stream)
            end.record(self._stream)
        self._stream.synchronize()
        return [end.milliseconds_since(begin) for begin, end in events]


def key_of(shape: Shape) -> str:
    """What a choice is made for: a shape, but for its rows, which are rounded up.

    >>> key_of(Shape(1100, 4096, 14336, "bf16", False, True, 1 << 25, 256))
    '1280 x 14336 by 14336 x 4096 in bf16, residual, workspace 33554432, alignment 256'
    """
    words = [str(replace(shape, m=rounded(shape.m)))]
    words += [role for role in ("bias", "residual") if getattr(shape, role)]
    return ", ".join([*words, f"workspace {shape.workspace}", f"alignment {shape.alignment}"])


def rounded(rows: int) -> int:
    """A number of rows that stands for those just below: a power of two, a multiple of 128, of 1/8 of the next power.

    >>> [rounded(rows) for rows in (1, 17, 100, 129, 1000, 1025, 1281, 8192)]
    [1, 32, 128, 256, 1024, 1280, 1536, 8192]
    """
    power = 1 << (rows - 1).bit_length()
    step = min(power, max(128, power // 8))
    return -(-rows // step) * step
