"""Bytes of a photograph -> pixels, field of view and preprocessed image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fundusgrade.lazy import lazy_attributes

if TYPE_CHECKING:
    from fundusgrade.photographs.field_of_view import find_field_of_view
    from fundusgrade.photographs.images import read_image
    from fundusgrade.photographs.inputs import Photograph
    from fundusgrade.photographs.loading import open_photograph
    from fundusgrade.photographs.recipe import PreprocessRecipe
    from fundusgrade.photographs.sources import PhotographSource, find_images

__all__ = [
    "Photograph",
    "PhotographSource",
    "PreprocessRecipe",
    "find_field_of_view",
    "find_images",
    "open_photograph",
    "read_image",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "Photograph": "inputs",
        "PhotographSource": "sources",
        "PreprocessRecipe": "recipe",
        "find_field_of_view": "field_of_view",
        "find_images": "sources",
        "open_photograph": "loading",
        "read_image": "images",
    },
)
