"""dSprites in memory: bits, of which a process that trains on them needs little more."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

import tutor
from benchmarks.evaluation import LOAD


def test_stored_as_bits():
    """One bit a pixel where a float array has 32."""
    data = tutor.data.load("dsprites")
    assert data.images.nbytes * 32 == 4 * len(data) * math.prod(data.shape)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_a_process_that_reads_all_sprites_needs_a_tenth_of_a_float_array():
    """The largest size of a fresh process, less its size with torch and tutor imported.

    Bits are 3 % of floats; factors, indices and batches come on top.
    """
    done = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    grown = int(done.stdout.split()[-1])
    floats = 4 * 737_280 * 64 * 64
    assert floats / 32 < grown < floats / 10  # it did read them; and within the limit
