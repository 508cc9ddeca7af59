"""Hub code is written to be read in an afternoon, like a model of `transformers`."""

import pytest

from tests.helpers.readability import code_lines, measure
from tests.helpers.sources import HUB_FILES


HUB_FOLDERS = ("modeling_egmf", "processing_egmf")
MAX_HUB_LINES = 6_588  # code lines of both folders

PACKED = """
a, b = 1, 2
(c, d) = pair
"""
DENSE = '''
"""A docstring
of two lines."""

x = 1  # counts
# does not count
'''


def test_hub_code_is_written_to_be_read():
    figures = measure(path for path in HUB_FILES if path.parent.name in HUB_FOLDERS)
    assert figures.num_lines > 1_000
    assert figures.long_line_share <= 0.05
    assert figures.packed_assignments == []
    assert figures.long_functions == []
    assert figures.num_lines < MAX_HUB_LINES


@pytest.mark.parametrize("folder", HUB_FOLDERS)
def test_lines_of_a_folder_are_short(folder):
    assert measure(path for path in HUB_FILES if path.parent.name == folder).characters_per_line <= 50


def test_measure_detects_dense_code(tmp_path):
    function = "def f():\n" + "    pass\n" * 60
    path = tmp_path / "dense.py"
    path.write_text(f"{PACKED}x = '{'a' * 105}'\n{function}")
    figures = measure([path])
    assert figures.packed_assignments == ["dense.py:2"]
    assert figures.long_functions == ["dense.py:f"]
    assert figures.long_line_share > 0
    assert code_lines(DENSE) == ["x = 1  # counts"]
