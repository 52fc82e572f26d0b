"""Preparing and grading photographs, and how long other tools take for the same photographs in the same run.

    python benchmarks/side_by_side.py FOLDER [FOLDER ...] [--count 50] [--rounds 5] [--automorph CHECKOUT]

Programs take turns, so that a slow minute of the machine hits all of them; the first round warms caches and is not
counted. Printed is the median rate of each, and how many times longer it takes than ours in the same round: the median
and the range of all rounds. What is not installed is left out in words.

Preparing: from a file to the cropped disc. Ours also finds where the picture is cut or squashed, measures quality and
normalizes the light; it decodes at a reduced size. The others cut the disc out of all pixels.
  fundus_image_toolbox  its `crop` (pip install fundus-image-toolbox), one photograph after the other, as it is called
  AutoMorph             its step M0, from a checkout of its repository, as it is no package
Grading: from a file to a grade, with the same weights and our preparation.
  timm                  its ImageDataset, loader of two processes and network in float32, as in its inference program
  plain loop            one photograph after the other

Rates of preparing are for one photograph at a time, with OpenCV's own threads where a tool uses them; what all cores
do together is a line of its own.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import statistics
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.predict import LOAD, bounds_of, grade, is_gradable, peers_of
from fundusgrade.grading.grader import Grader
from fundusgrade.options import DeviceName, Precision
from fundusgrade.photographs.loading import load_photograph
from fundusgrade.photographs.recipe import PreprocessRecipe
from fundusgrade.photographs.sources import PhotographSource, find_images

Program = Callable[[], object]
TOOLBOX, AUTOMORPH = "fundus_image_toolbox", "AutoMorph"


def one_by_one(found: Sequence[PhotographSource], call: Callable[[Path], object]) -> None:
    """Call a function with the path of every photograph."""
    for each in found:
        call(each.path)


def toolbox_crop(size_px: int) -> Callable[[Path], object]:
    """The crop of fundus_image_toolbox. Raises ImportError.

    Importing the package itself downloads the code of a network; the module of the crop is imported without it.
    """
    spec = importlib.util.find_spec(TOOLBOX)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("pip install fundus-image-toolbox")
    package = types.ModuleType(TOOLBOX)
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules[TOOLBOX] = package
    crop = importlib.import_module(f"{TOOLBOX}.circle_crop").crop
    return lambda path: crop(str(path), size=size_px)


def automorph_crop(checkout: Path | None) -> Callable[[Path], object]:
    """The crop of AutoMorph's step M0. Raises ImportError."""
    if checkout is None:
        raise ImportError("name a checkout of its repository with --automorph")
    spec = importlib.util.spec_from_file_location("fundus_prep", checkout / "M0_Preprocess" / "fundus_prep.py")
    if spec is None or spec.loader is None or not Path(str(spec.origin)).is_file():
        raise ImportError(f"{checkout} has no M0_Preprocess/fundus_prep.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def crop(path: Path) -> object:
        image = module.imread(str(path))
        return module.process_without_gb(image, image, [], [], [])

    return crop


def preparing(found: Sequence[PhotographSource], recipe: PreprocessRecipe, checkout: Path | None) -> dict[str, Program]:
    """Ours first, then those that are installed."""
    programs: dict[str, Program] = {
        "ours": functools.partial(one_by_one, found, lambda path: load_photograph(path, recipe))
    }
    others: dict[str, Callable[[], Callable[[Path], object]]] = {
        TOOLBOX: lambda: toolbox_crop(recipe.size_px),
        AUTOMORPH: lambda: automorph_crop(checkout),
    }
    for name, load in others.items():
        try:
            programs[name] = functools.partial(one_by_one, found, load())
        except ImportError as error:
            print(f"{name}: not measured ({error})")
    return programs


def take_turns(programs: dict[str, Program], rounds: int) -> dict[str, list[float]]:
    """Seconds of each program in each round, without the first; every other round runs in reverse order."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds + 1):
        items = list(programs.items())
        for name, program in items if number % 2 == 0 else reversed(items):
            started = time.perf_counter()
            program()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def report(title: str, seconds: dict[str, list[float]], count: int) -> None:
    """A row for each program: its rate, and its time relative to the first one's."""
    print(f"{title:34s}  photographs/s  times ours (range)")
    first = next(iter(seconds.values()))
    for name, times in seconds.items():
        ratios = [other / own for other, own in zip(times, first, strict=True)]
        print(
            f"{name:34s}  {count / statistics.median(times):13.2f}  {statistics.median(ratios):6.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--model", default=None, help="name or path")
    parser.add_argument("--count", type=int, default=50, help="photographs; fewer are taken several times")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--automorph", type=Path, default=None, help="checkout of rmaphoh/AutoMorph")
    parser.add_argument("--only-preparing", action="store_true")
    chosen = parser.parse_args()
    gradable = [each for each in find_images(chosen.folders) if is_gradable(each)]
    found = list(itertools.islice(itertools.cycle(gradable), chosen.count))
    found = [PhotographSource(path=each.path, name=f"{number:05d}") for number, each in enumerate(found)]
    grader = Grader.load(chosen.model)
    print(f"{len(found)} photographs ({len(gradable)} different); {grader.name}; {grader.arithmetic.describe()}")
    programs = preparing(found, grader.recipe, chosen.automorph)
    programs["ours, all cores"] = bounds_of(grader, found)[LOAD]
    report("preparing", take_turns(programs, chosen.rounds), len(found))
    if not chosen.only_preparing:
        plain = Grader.load(chosen.model, device=DeviceName.CPU, precision=Precision.FLOAT32)
        programs = {"ours": functools.partial(grade, grader, found), **peers_of(plain, found)}
        report("grading", take_turns(programs, chosen.rounds), len(found))


if __name__ == "__main__":
    main()
