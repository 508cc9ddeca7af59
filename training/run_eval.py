"""Evaluate a checkpoint: `python -m training.run_eval --help`."""

from .evaluation.evaluator import main


if __name__ == "__main__":
    main()
