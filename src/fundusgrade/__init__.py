"""Grade diabetic retinopathy in fundus photographs, and show what the grade rests on."""

__version__ = "0.1.0"
