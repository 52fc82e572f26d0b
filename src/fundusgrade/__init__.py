"""Grade diabetic retinopathy in fundus photographs, and show what the grade rests on.

from pathlib import Path
from fundusgrade import Grader, find_images

grader = Grader.load()                                      # the shipped model, or a name or path
results = grader.grade_all(find_images([Path("images")]))   # Prediction or Ungraded, in order
explanation = grader.explain(Path("eye.png"))               # .heat lies on the photograph's own pixels
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fundusgrade.grading import Grader
    from fundusgrade.images import find_images

__version__ = "0.1.0"
__all__ = ["Grader", "__version__", "find_images"]

_ROOMS = {"Grader": "grading", "find_images": "images"}


def __getattr__(name: str) -> object:
    """Import what is asked for, and only then: PyTorch takes seconds, and help should answer at once."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
