"""How many CPU threads are worth starting."""

from __future__ import annotations

import os
import re
from pathlib import Path


def usable_cores() -> int:
    """Return the number of physical cores that this process may use.

    The least of: cores of the machine, CPUs in the process's affinity, CPUs in its cgroup's quota. Two threads on one
    core share its arithmetic units, and threads beyond a quota are made to wait, so more is slower.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, physical_cores() or allowed, quota() or allowed))


def physical_cores(cpuinfo: Path = Path("/proc/cpuinfo")) -> int | None:
    """Count distinct (socket, core) pairs; None where Linux does not say."""
    if not cpuinfo.exists():
        return None
    pairs = re.findall(r"^physical id\s*: (\d+)$.*?^core id\s*: (\d+)$", cpuinfo.read_text(), re.MULTILINE | re.DOTALL)
    return len(set(pairs)) or None


def quota(cpu_max: Path = Path("/sys/fs/cgroup/cpu.max")) -> int | None:
    """Return the CPUs of the cgroup's quota, rounded up; None if there is none."""
    if not cpu_max.exists():
        return None
    quota, _, period = cpu_max.read_text().strip().partition(" ")
    return None if quota == "max" else -(-int(quota) // int(period))
