"""Grade diabetic retinopathy in fundus photographs, and highlight the regions that drove the grade.

from fundusgrade import Grader, explain, find_images

grader = Grader.load()                          # the shipped model, or a name or path
grader.grade("eye.png")                         # a path, Pillow image, array, bytes of a file, or a list of these
for result in grader.grade_all(find_images("images")):
    ...                                         # Prediction or Ungraded, in order
explain(grader, "eye.png").save("heat.png")     # .heat lies on the photograph's own pixels
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fundusgrade.lazy import lazy_attributes

if TYPE_CHECKING:
    from fundusgrade.errors import FundusgradeError, UngradableError
    from fundusgrade.grades import Grade, Prediction, Referral, Ungraded
    from fundusgrade.grading.grader import Grader
    from fundusgrade.grading.results import Results
    from fundusgrade.photographs.inputs import Photograph
    from fundusgrade.photographs.sources import find_images
    from fundusgrade.reports.explained import Explanation, explain

__version__ = "0.1.0"
__all__ = [
    "Explanation",
    "FundusgradeError",
    "Grade",
    "Grader",
    "Photograph",
    "Prediction",
    "Referral",
    "Results",
    "UngradableError",
    "Ungraded",
    "__version__",
    "explain",
    "find_images",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "Explanation": "reports.explained",
        "FundusgradeError": "errors",
        "Grade": "grades",
        "Grader": "grading.grader",
        "Photograph": "photographs.inputs",
        "Prediction": "grades",
        "Referral": "grades",
        "Results": "grading.results",
        "UngradableError": "errors",
        "Ungraded": "grades",
        "explain": "reports.explained",
        "find_images": "photographs.sources",
    },
)
