"""How long it takes to import the library, and to ask the command line for help.

The script starts a process for each row of the table, `RUNS` times in turn, and prints the medians
of the CPU time, which is user and system time together. Unlike elapsed time it does not depend on
other programs. The script takes one to two minutes.

Run: `python benchmarks/imports.py`.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys

RUNS = 7
_COMMAND = ("-m", "bayes_htr")
ROWS = {
    "`import torch`": ("-c", "import torch"),
    "`import bayes_htr`": ("-c", "import bayes_htr"),
    "`import bayes_htr` and `htr.analyze`": ("-c", "import bayes_htr as htr; htr.analyze"),
    "`import bayes_htr` and `htr.Posterior`": ("-c", "import bayes_htr as htr; htr.Posterior"),
    "`import bayes_htr`, `htr.fit` and `htr.MAP`": (
        "-c",
        "import bayes_htr as htr; htr.fit, htr.MAP, htr.BayesianClassifier",
    ),
    "`bayes-htr --help`": (*_COMMAND, "--help"),
    "`bayes-htr fit --help`": (*_COMMAND, "fit", "--help"),
    "`bayes-htr analyze --help`": (*_COMMAND, "analyze", "--help"),
    "`bayes-htr fit --epochs many`, a wrong argument": (*_COMMAND, "fit", "--epochs", "many"),
}


def cpu_seconds(*arguments: str) -> float:
    """Return the CPU time of a Python process with one thread, in seconds.

    Raises:
        RuntimeError: The process failed for another reason than a wrong argument.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 2):
        raise RuntimeError(f"{' '.join(arguments)} failed: {done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure every row in turn, and print the table."""
    times: dict[str, list[float]] = {name: [] for name in ROWS}
    for arguments in ROWS.values():
        cpu_seconds(*arguments)  # compiles and caches, which is not measured
    for _ in range(RUNS):
        for name, arguments in ROWS.items():
            times[name].append(cpu_seconds(*arguments))
    medians = {name: statistics.median(found) for name, found in times.items()}
    torch = next(iter(medians.values()))
    print("| | CPU seconds | over `import torch` |\n|---|---:|---:|")
    for name, median in medians.items():
        print(f"| {name} | {median:.2f} | {median - torch:+.2f} |")


if __name__ == "__main__":
    main()
