"""The setting of the C library is made, and helps."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from asr.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():  # replaces a state of 2 MB
    global state
    state = bytearray(2_000_000)
    small = [bytearray(100_000) for _ in range(60)]
state = None
for _ in range(5): step()
before = faults()
for _ in range(20): step()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_kept():
    faults = {}
    for mode in ("keep", "leave"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True
        )
        faults[mode] = int(done.stdout)
    assert faults["keep"] < 0.1 * faults["leave"]
