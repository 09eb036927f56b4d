"""The processor that this process runs on."""

import math
import os
import platform
from pathlib import Path


def name(cpuinfo: str | Path = "/proc/cpuinfo") -> str:
    """Returns what the processor is called, and the widest vectors that it has."""
    fields = facts(cpuinfo)
    if not fields:
        return platform.processor() or platform.machine()
    flags = fields.get("flags", "").split()
    widest = next((flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in flags), "")
    return fields.get("model name", platform.machine()) + (f" ({widest})" if widest else "")


def facts(path: str | Path) -> dict[str, str]:
    """Returns what Linux tells in lines of the form `name: value`; the last where a name comes again, {} elsewhere."""
    try:
        lines = (line.partition(":") for line in Path(path).read_text(errors="replace").splitlines())
        return {key.strip(): value.strip() for key, _, value in lines}
    except OSError:
        return {}


def peak_bytes(pid: int | str = "self") -> int:
    """Returns the most resident memory that a process alone has had, 0 where the system does not tell.

    (`ru_maxrss` would begin with that of the parent.)
    """
    return 1024 * int(facts(f"/proc/{pid}/status").get("VmHWM", "0").split()[0])


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
