"""The processor that this process runs on."""

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


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
