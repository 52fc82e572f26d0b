"""Which share of lesions lies outside of what networks see, by kind, for each outline of the preprocessing recipe.

python benchmarks/unseen_lesions.py idrid/ --size 224
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fundusgrade.evaluation.visibility import measure_unseen_lesions, visible_reach
from fundusgrade.photographs.recipe import Method, Outline, PreprocessRecipe


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photographs and masks in IDRiD's layout")
    parser.add_argument("--size", type=int, default=224)
    chosen = parser.parse_args()
    print("outline, colors: reach; kind, photographs, lesions: share of lesions and of their area outside")
    for outline in Outline:
        for method in (Method.BEN_GRAHAM, Method.NATURAL):
            recipe = PreprocessRecipe(method=method, outline=outline, size_px=chosen.size)
            print(f"{outline.value}, {method.value}: {visible_reach(recipe):.2f}")
            for found in measure_unseen_lesions(chosen.folder, recipe):
                counts = f"{found.kind}, {found.num_photographs}, {found.num_lesions}"
                print(f"  {counts:28s}: {found.unseen_lesions or 0:.1%}, {found.unseen_area or 0:.1%}")


if __name__ == "__main__":
    main()
