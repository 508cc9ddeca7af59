"""Converters from public corpora, and from your own folder, to typed Parquet: one command per corpus.

    python -m training.converters.meld MELD.Raw data/meld

    release ─► plan: labels checked, files found ─► core/conversion.py: arrays and clips repaired, in shards ─► DEST

DEST holds `data/*.parquet`, `splits/*.json`, `conversion.json` (the conversion report) and a dataset card. Start with
meld.py.
"""
