"""Converters of public corpora, and of your own folder, to typed Parquet: one command per corpus.

    python -m training.converters.meld MELD.Raw data/meld

    release ─► plan: labels checked, files found ─► core/conversion.py: arrays and clips repaired, in shards ─► DEST

DEST holds `data/*.parquet`, `splits/*.json`, `conversion.json` (the conversion report) and a card. Read meld.py first.
"""
