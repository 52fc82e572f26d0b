"""How often photographs are refused as they are, and with red and blue swapped, as OpenCV reads them.

python benchmarks/swapped_colors.py eyepacs/images aptos2019 --number 600
"""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

from fundusgrade.errors import UngradableError
from fundusgrade.photographs.images import read_image
from fundusgrade.photographs.loading import load_pixels
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.recipe import PreprocessRecipe
from fundusgrade.photographs.sources import find_images

RECIPE = PreprocessRecipe()


def is_taken_for_swapped(image: Image) -> bool | None:
    """Whether an array is refused because red and blue seem swapped; None where it is refused for another reason."""
    try:
        load_pixels(image, RECIPE)
    except UngradableError as error:
        return True if "BGR" in str(error) else None
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--number", type=int, default=600, help="Photographs of each folder, drawn at random.")
    arguments = parser.parse_args()
    for folder in arguments.folders:
        found = find_images(folder)
        drawn = Random(0).sample(found, min(arguments.number, len(found)))
        images = [read_image(photograph.path) for photograph in drawn]
        gradable = [image for image in images if is_taken_for_swapped(image) is not None]
        as_they_are = sum(bool(is_taken_for_swapped(image)) for image in gradable)
        swapped = sum(bool(is_taken_for_swapped(image[..., ::-1].copy())) for image in gradable)
        print(
            f"{folder}: {len(gradable)} photographs with a retina; refused as they are {as_they_are}, swapped {swapped}"
        )


if __name__ == "__main__":
    main()
