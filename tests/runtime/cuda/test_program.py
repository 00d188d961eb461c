"""Steps are bound once, when they are first told, in their order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeDriver

from trtc.errors import TrtcError
from trtc.runtime.cuda.program import Binding, Machine, PlanRun
from trtc.runtime.cuda.slots import Values
from trtc.runtime.gpu.device import open_device
from trtc.runtime.gpu.driver import open_driver
from trtc.runtime.gpu.stream import Stream


@pytest.fixture
def binding() -> Binding:
    stream = Stream(open_device(on=open_driver(FakeDriver())))
    return Binding(Machine(stream, [], None, overlaps=True), Values(np.zeros(1, np.int64)))


class Step:
    """A step that writes what happens to it in a log."""

    def __init__(self, name: str, log: list[str], failures: int = 0) -> None:
        self.name, self.log, self.failures = name, log, failures

    def bind(self, to: Binding) -> Step:
        self.log.append(f"bind {self.name}")
        if self.failures:
            self.failures -= 1
            raise TrtcError(f"no algorithm for {self.name}")
        return self

    def enqueue(self, stream: Stream) -> None:
        self.log.append(self.name)


def test_a_step_is_bound_when_those_before_it_are_told(binding: Binding) -> None:
    log = list[str]()
    run = PlanRun([Step(name, log).bind for name in "ab"], binding)
    assert log == []
    for _ in range(2):
        run.enqueue(binding.machine.stream)
    assert log == ["bind a", "a", "bind b", "b", "a", "b"]
    assert len(run.steps) == 2


def test_a_run_that_failed_leaves_no_step_out_the_next_time(binding: Binding) -> None:
    log = list[str]()
    run = PlanRun([Step("a", log).bind, Step("b", log, failures=1).bind, Step("c", log).bind], binding)
    with pytest.raises(TrtcError, match="no algorithm for b"):
        run.enqueue(binding.machine.stream)
    log.clear()
    run.enqueue(binding.machine.stream)
    assert log == ["a", "bind b", "b", "bind c", "c"]


def test_launches_that_are_alike_share_a_config(binding: Binding) -> None:
    make: Callable[..., Any] = binding.config
    one = make((4, 2, 1), (128, 1, 1), 0, True)
    assert one is make((4, 2, 1), (128, 1, 1), 0, True)
    different = [((4, 1, 1), (128, 1, 1), 0, True), ((4, 2, 1), (64, 1, 1), 0, True),
                 ((4, 2, 1), (128, 1, 1), 64, True), ((4, 2, 1), (128, 1, 1), 0, False)]   # fmt: skip
    assert all(make(*how) is not one for how in different)
    assert (one.gridDimX, one.gridDimY, one.blockDimX, one.numAttrs) == (4, 2, 128, 1)
