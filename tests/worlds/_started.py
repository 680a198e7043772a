"""A script in several processes that talk by gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch.distributed as dist

needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this PyTorch has no gloo to talk through"
)


def started(script: Path, size: int) -> list[dict[str, Any]]:
    """The JSON object that each of ``python SCRIPT RANK SIZE STORE`` prints last."""
    with TemporaryDirectory() as folder:
        running = [
            subprocess.Popen(
                [sys.executable, str(script), str(rank), str(size), str(Path(folder) / "store")],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for rank in range(size)
        ]
        results = []
        try:
            for process in running:
                out, err = process.communicate(timeout=300)
                assert process.returncode == 0, err
                results.append(json.loads(out.splitlines()[-1]))
        finally:  # a failure of one leaves the others waiting for it
            for process in running:
                process.kill()
                process.communicate()
    return results
