"""Ranges of the benchmarks' options: a number outside is refused in one line that names the option."""

import argparse
from collections.abc import Mapping


MAX_COUNT = 2**16  # samples, tokens, rounds: more would only exhaust the memory or the patience
COUNT = (1, MAX_COUNT)


def check_ranges(arguments: argparse.Namespace, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Check the numbers of a command line; an option without a value is not checked.

    Args:
        arguments: the parsed options; an option may hold one number or several.
        ranges: name of an option -> lowest and highest number that it accepts.

    Raises:
        ValueError: a number is out of range, or is NaN.
    """
    for name, (lowest, highest) in ranges.items():
        value = vars(arguments)[name]
        if value is None:
            continue
        numbers = value if isinstance(value, list) else [value]
        for number in numbers:
            if not lowest <= number <= highest:
                raise ValueError(f"--{name} is {number}; it must be at least {lowest} and at most {highest}.")
