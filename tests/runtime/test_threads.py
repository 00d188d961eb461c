"""How many threads: what Linux says about cores and quotas."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trtc.runtime.threads as threads

TWO_SOCKETS_OF_TWO_CORES_OF_TWO_THREADS = "".join(
    f"processor\t: {cpu}\nphysical id\t: {cpu // 4}\nsiblings\t: 4\ncore id\t\t: {cpu // 2 % 2}\ncpu cores\t: 2\n\n"
    for cpu in range(8)
)


def test_threads_of_one_core_count_once(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(TWO_SOCKETS_OF_TWO_CORES_OF_TWO_THREADS)
    assert threads.physical_cores(tmp_path / "cpuinfo") == 4


def test_cpuinfo_without_cores(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nBogoMIPS\t: 50.00\n")   # as on ARM
    assert threads.physical_cores(tmp_path / "cpuinfo") is None
    assert threads.physical_cores(tmp_path / "none") is None


@pytest.mark.parametrize(("text", "cpus"), [("max 100000\n", None), ("150000 100000\n", 2), ("400000 100000\n", 4)])
def test_a_cgroups_quota_is_rounded_up(tmp_path: Path, text: str, cpus: int | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert threads.quota(tmp_path / "cpu.max") == cpus
    assert threads.quota(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("allowed", "cores", "cpus", "usable"), [(8, 4, None, 4), (3, 4, None, 3), (8, 4, 2, 2), (6, None, None, 6)]
)
def test_the_least_counts(monkeypatch: pytest.MonkeyPatch, allowed: int, cores: Any, cpus: Any, usable: int) -> None:
    affinity: Callable[[int], set[int]] = lambda _: set(range(allowed))   # noqa: E731
    monkeypatch.setattr(os, "sched_getaffinity", affinity)
    monkeypatch.setattr(threads, "physical_cores", lambda: cores)
    monkeypatch.setattr(threads, "quota", lambda: cpus)
    assert threads.usable_cores() == usable
