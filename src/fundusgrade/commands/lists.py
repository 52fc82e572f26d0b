"""The commands `models` and `datasets`: what the user data directory holds."""

from __future__ import annotations

from fundusgrade.terminal import message, show


def list_models() -> None:
    """List the trained models and the models that are shipped with fundusgrade."""
    from fundusgrade import store
    from fundusgrade.reports.listings import models_table

    found = store.list_models()
    show(models_table(found, default=store.DEFAULT_MODEL))
    if not found:
        message("no model yet; train one with `fundusgrade train`")


def list_datasets() -> None:
    """List the prepared data sets."""
    from fundusgrade import store
    from fundusgrade.reports.listings import datasets_table

    found = store.list_datasets()
    show(datasets_table(found))
    if not found:
        message("no data set yet; prepare one with `fundusgrade preprocess FOLDER`")
