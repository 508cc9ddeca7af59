"""Predict clips with a checkpoint: `python -m training.predict --help`."""

from .evaluation.predictor import main


if __name__ == "__main__":
    main()
