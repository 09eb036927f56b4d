"""How busy a GPU is while something runs, as nvidia-smi tells."""

import shutil
import statistics
import subprocess
import tempfile


class Gpu:
    """Asks nvidia-smi twice a second between `with` and its end; without nvidia-smi there is nothing to tell."""

    _COMMAND = ("nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits",
                "--loop-ms=500")  # fmt: skip

    def __enter__(self) -> "Gpu":
        self._told = tempfile.TemporaryFile("w+")  # a pipe that nobody reads would fill up
        self._process = subprocess.Popen(self._COMMAND, stdout=self._told) if shutil.which(self._COMMAND[0]) else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait()
        self._told.seek(0)
        self._lines = self._told.read().splitlines()
        self._told.close()

    def figures(self) -> dict[str, float]:
        """Returns the mean share of time in which a kernel ran, in percent, and the most memory in use, in MB."""
        return busy(self._lines)


def busy(lines: list[str]) -> dict[str, float]:
    """Reads lines of percent and MiB; what a GPU does not tell (`[N/A]`) is left out.

    >>> busy(["50, 1000", "100, 3000", "[N/A], [N/A]"])
    {'gpu_percent': 75.0, 'gpu_mb': 3145.728}
    >>> busy([])
    {}
    """
    told = [part.split(", ") for part in lines if part.replace(", ", "").strip().isdigit()]
    if not told:
        return {}
    most = max(float(memory) for _, memory in told) * 2**20 / 1e6
    return {"gpu_percent": statistics.mean(float(percent) for percent, _ in told), "gpu_mb": most}
