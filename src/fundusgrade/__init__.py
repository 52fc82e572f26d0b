"""Grade diabetic retinopathy in fundus photographs, and highlight the regions that drove the grade.

from pathlib import Path
from fundusgrade import Grader, explain, find_images

grader = Grader.load()                                      # the shipped model, or a name or path
results = grader.grade_all(find_images([Path("images")]))   # Prediction or Ungraded, in order
explanation = explain(grader, Path("eye.png"))              # .heat lies on the photograph's own pixels
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fundusgrade.lazy import lazy_attributes

if TYPE_CHECKING:
    from fundusgrade.explanation.explainer import explain
    from fundusgrade.grading.grader import Grader
    from fundusgrade.photographs.sources import find_images

__version__ = "0.1.0"
__all__ = ["Grader", "__version__", "explain", "find_images"]

__getattr__ = lazy_attributes(
    __name__, {"Grader": "grading.grader", "explain": "explanation.explainer", "find_images": "photographs.sources"}
)
