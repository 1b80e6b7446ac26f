"""``run.py evaluate``: data × method × settings → pictures, metrics and a table beside the papers' figures."""
