"""Twelve hundred seeded damaged inputs, each in a bounded process: right answers, or errors that name the example.

`python -m tests.helpers.damage` prints the counts; tests/helpers/damage.py says what is counted as what.
"""

import json
import subprocess
import sys

import pytest

from tests.helpers.damage import KINDS
from tests.helpers.sources import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_inputs_are_answered_rightly_or_refused(kind):
    command = [sys.executable, "-m", "tests.helpers.damage", kind, "--number", "200"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["right"] + counts["as written"] + counts["partial"] + counts["refused"] == 200
    assert counts["right"] > 0
    assert counts["refused"] > 0
