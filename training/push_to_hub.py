"""Push a run to the Hub: `python -m training.push_to_hub --help`."""

from .hub.upload import main


if __name__ == "__main__":
    main()
