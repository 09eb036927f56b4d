"""The processor that this process runs on."""

import math
import os
import platform
from pathlib import Path


def name(cpuinfo: str | Path = "/proc/cpuinfo") -> str:
    """Returns what the processor is called, and the widest vectors that it has."""
    try:
        lines = Path(cpuinfo).read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", "").split()
    widest = next((flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in flags), "")
    return fields.get("model name", platform.machine()) + (f" ({widest})" if widest else "")


def cores(cgroup: str | Path = "/sys/fs/cgroup") -> int:
    """Returns how many cores this process may use: those it may run on, or as many as a container's quota is worth."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(there, _quota(Path(cgroup)) or there)


def _quota(cgroup: Path) -> int | None:
    """Returns the cores' worth of time that a container gets, rounded up; None if it is not limited."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # of version 2, and of 1
        try:
            quota, period = " ".join((cgroup / file).read_text() for file in files).split()
            return math.ceil(int(quota) / int(period)) if int(quota) > 0 else None
        except (OSError, ValueError, ZeroDivisionError):  # not there; "max"
            continue
    return None
