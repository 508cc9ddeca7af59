"""Figures of a card, and numbers of the files that they must come from."""

import re


def numbers_in(value):
    """Every number of a JSON file; lists of raw predictions as well."""
    if isinstance(value, dict):
        return [number for entry in value.values() for number in numbers_in(entry)]
    if isinstance(value, list):
        return [number for entry in value for number in numbers_in(entry)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def figures_of(text):
    """Numbers in the prose and the tables of a card; not those in code, links, and names of things."""
    text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)|https?://\S+", " ", text, flags=re.DOTALL)
    text = re.sub(r"SmolLM2-135M-Instruct|Apache-2\.0|CC BY 4\.0|Gilbert 2014", " ", text)
    return re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", text)
