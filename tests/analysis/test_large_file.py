"""A file of a billion parameters in little memory."""

import json
import os
import re
import struct
import subprocess
import sys

import pytest
import torch

SHAPES = [(8192, 512)] * 200 + [(4096, 1024)] * 40
LIMIT = 4 * 2**30

PROGRAM = """
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_DATA, ({limit}, {limit}))
import bayes_htr as htr
report = htr.analyze(sys.argv[1], progress=False)
status = open("/proc/self/status").read()
peak = 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
entries = sum(row["num_params"] for row in report.rows)
largest = max(row["lambda_max"] for row in report.rows)
found = {{"rows": len(report.rows), "entries": entries, "peak": peak, "largest": largest}}
print(json.dumps(found))
"""


def write(path):
    """A file of these shapes in bfloat16, block by block."""
    header, position = {}, 0
    for i, (rows, columns) in enumerate(SHAPES):
        size = 2 * rows * columns
        header[f"layers.{i}.weight"] = {
            "dtype": "BF16",
            "shape": [rows, columns],
            "data_offsets": [position, position + size],
        }
        position += size
    text = json.dumps(header).encode()
    generator = torch.Generator().manual_seed(0)
    block = 0.02 * torch.randn(8192 * 512, generator=generator)
    data = block.bfloat16().view(torch.int16).numpy().tobytes()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for i in range(len(SHAPES)):
            start = 2 * 1000 * i
            file.write(data[start:] + data[:start])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_a_billion_parameters_within_4_gigabytes(tmp_path):
    path = tmp_path / "large.safetensors"
    write(path)
    try:
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(limit=LIMIT), str(path)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ,
        )
    finally:
        path.unlink()
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["rows"] == len(SHAPES)
    assert found["entries"] == sum(m * n for m, n in SHAPES) > 10**9
    assert found["largest"] == pytest.approx(0.02**2 * (8192**0.5 + 512**0.5) ** 2, rel=0.02)
    assert found["peak"] < LIMIT / 2, f"{found['peak'] / 2**30:.2f} GiB"
    print(f"peak {found['peak'] / 2**30:.2f} GiB")
    assert not re.search("Warning", run.stderr), run.stderr
