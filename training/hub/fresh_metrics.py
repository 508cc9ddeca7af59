"""Loads metrics as a stranger would: by the names of their Spaces, in a process with an empty cache.

    python -I training/hub/fresh_metrics.py '[{"repo": ..., "revision": ..., "columns": {...}}, ...]'

Prints the figures of each, as JSON. metric_spaces.py runs it. The file imports none of our code.
"""

import json
import sys

import evaluate


def main() -> None:
    results = []
    for job in json.loads(sys.argv[1]):
        metric = evaluate.load(job["repo"], revision=job["revision"])
        results.append(metric.compute(**job["columns"]))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
