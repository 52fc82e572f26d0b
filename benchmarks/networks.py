"""Train, grade, explain and export one small network of each of timm's families, and write the table of the results.

    python benchmarks/networks.py [--families swin_transformer xcit ...] [--out networks.md] [--seconds 600]

Works on drawn eyes in a temporary folder, from random weights: it shows which networks work, not how well. Of a family,
which is a module of timm, the network with the fewest parameters is taken, without timm's own test networks. The images
have the smallest of a few sizes that the network takes. Each family runs in a process of its own with limited memory,
so that a crash is counted as one. The exit code is 1 if anything ended in another way than with a result or with an
error of ours, which says in words what does not work.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fundusgrade.errors import FundusgradeError
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.explanation.torch_gradients import explain_image, find_obstacle
from fundusgrade.grading.grader import Grader
from fundusgrade.networks.build import network_spec
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.networks.device import choose_device
from fundusgrade.networks.inference import predict_probabilities, predict_with_features
from fundusgrade.networks.input_shape import find_obstacle as find_shape_obstacle
from fundusgrade.networks.input_shape import fit_input
from fundusgrade.networks.onnx_export import to_onnx
from fundusgrade.networks.timm_folder import write_hub_folder
from fundusgrade.networks.torch_runtime import on_pytorch
from fundusgrade.options import Attribution, DeviceName, Head, Precision
from fundusgrade.photographs.recipe import PreprocessRecipe
from fundusgrade.text import is_out_of_memory
from fundusgrade.training.history import EpochRecord
from fundusgrade.training.loop import train
from fundusgrade.training.options import TrainOptions
from tests.models_for_tests import drawn_photograph
from tests.prepared import prepared_dataset

SIZES_PX = (64, 96, 128, 160, 192, 224, 240, 256, 336)
METHODS = (Attribution.INTEGRATED_GRADIENTS, Attribution.GRAD_CAM, Attribution.ATTENTION_ROLLOUT)
STEPS = ("train", "grade", "features", *METHODS, "ONNX", "hub")
WORKS = "yes"


@dataclass(slots=True)
class Row:
    """What became of a family: its network, the input in px, and the result of each step, WORKS or why not."""

    family: str
    network: str = ""
    parameters: int = 0
    shape: str = ""
    steps: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Unwatched:
    """An observer of a training run that does nothing."""

    def batch_done(self, epoch: int, step: int, num_steps: int, num_images: int) -> None:
        """Nothing."""

    def epoch_done(self, record: EpochRecord, is_best: bool) -> None:
        """Nothing."""


def smallest_network(family: str) -> tuple[int, str]:
    """Number of parameters and name of a family's smallest network with a classifier."""
    sizes = []
    for name in timm.list_models(module=family):
        if name.startswith("test_") or name.endswith("_enc"):
            continue
        with torch.device("meta"):
            network = timm.create_model(name, pretrained=False, num_classes=4)
        sizes.append((sum(parameter.numel() for parameter in network.parameters()), name))
    return min(sizes)


def input_size(arch: str) -> int:
    """Side of the smallest images whose band the network takes, else whose square; 224 if it takes none of them."""
    for takes_band in (True, False):
        for size_px in SIZES_PX:
            band_rows = PreprocessRecipe(size_px=size_px).band_rows if takes_band else None
            spec = network_spec(arch, size_px, band_rows=band_rows, head=Head.CUMULATIVE)
            if find_shape_obstacle(spec) is None:
                return size_px
    return 224


def examine(row: Row, folder: Path) -> None:
    """All steps of one network, in order; the first four depend on one another."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    row.parameters, row.network = smallest_network(row.family)
    recipe = PreprocessRecipe(size_px=input_size(row.network))
    choice = choose_device(DeviceName.CPU, Precision.FLOAT32)
    run = folder / "run"

    def train_step() -> str:
        spec = network_spec(row.network, recipe.size_px, band_rows=recipe.band_rows, head=Head.CUMULATIVE)
        fitted = fit_input(spec)
        height, width = fitted.spec.input_px
        row.shape = f"{height} x {width}" + (", square" if fitted.note else "")
        dataset = prepared_dataset(folder / "data", num_train=8, num_validation=8, recipe=recipe, grades=(0, 2))
        options = TrainOptions(arch=row.network, pretrained=False, epochs=1, batch_size=4)
        run.mkdir()
        train(dataset, options, choice, run, observer=Unwatched())
        return WORKS

    if not attempt(row, "train", train_step):
        return
    checkpoint = load_checkpoint(run / "model.safetensors")
    grader = Grader(on_pytorch(checkpoint, choice))
    photograph = drawn_photograph(3, 2 * recipe.size_px)
    pixels = torch.randint(0, 256, (2, 3, recipe.size_px, recipe.size_px), dtype=torch.uint8)
    probabilities = predict_probabilities(grader.pytorch.network, pixels, choice)

    def grade() -> str:
        (prediction,) = grader.grade_images([photograph])
        assert abs(sum(prediction.probabilities) - 1) < 1e-6, "not graded"
        return WORKS

    def features() -> str:
        if not grader.pytorch.network.gives_features():
            return "no: its outputs are not those of one last layer"
        seen = predict_with_features(grader.pytorch.network, pixels, choice)
        assert np.allclose(seen.probabilities, probabilities, atol=1e-5), "other probabilities"
        return WORKS

    def explain(method: Attribution) -> str:
        options = ExplainOptions(method=method)
        obstacle = find_obstacle(grader.pytorch.network, options)
        if obstacle is not None:
            return f"no: {obstacle}"
        image = pixels[0].permute(1, 2, 0).numpy()
        values = explain_image(grader.pytorch.network, image, options=options, choice=choice).values
        assert np.isfinite(values).all() and values.shape == image.shape[:2], "no map"
        return WORKS

    def onnx() -> str:
        graph = to_onnx(checkpoint.network.cpu()).SerializeToString()
        import onnxruntime

        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        with torch.no_grad():
            inputs = checkpoint.network.normalized(pixels.float() / 255)
            expected = checkpoint.network.backbone(inputs).numpy()
        (outputs,) = session.run(None, {"images": inputs.numpy()})
        difference = float(np.abs(outputs - expected).max()) / size_of(expected)
        return WORKS if difference < 1e-3 else f"no: outputs differ by {difference:.2g} of the largest"

    def hub() -> str:
        write_hub_folder(checkpoint, folder / "hub")
        loaded = timm.create_model(f"local-dir:{folder / 'hub'}", pretrained=True).eval()
        with torch.no_grad():
            inputs = checkpoint.network.normalized(pixels.float() / 255)
            expected = checkpoint.network.backbone(inputs).numpy()
            difference = float(np.abs(loaded(inputs).numpy() - expected).max()) / size_of(expected)
        return WORKS if difference < 1e-4 else "no: timm's network gives other outputs"

    attempt(row, "grade", grade)
    attempt(row, "features", features)
    for method in METHODS:
        attempt(row, method, lambda method=method: explain(method))
    attempt(row, "ONNX", onnx)
    attempt(row, "hub", hub)


def size_of(outputs: NDArray[np.float32]) -> float:
    """The largest output, at least 1: after two steps from random weights some networks give outputs of 1e5."""
    return max(1.0, float(np.abs(outputs).max()))


def attempt(row: Row, step: str, action: Callable[[], str]) -> bool:
    """Run a step; an error of ours is a result in words, any other a failure."""
    try:
        row.steps[step] = action()
    except FundusgradeError as error:
        row.steps[step] = f"no: {error}"
    except Exception as error:
        if is_out_of_memory(error):  # which a command says in words
            row.steps[step] = "no: too little memory"
            return False
        row.steps[step] = f"FAILED: {type(error).__name__}"
        row.failures.append(f"{row.family}, {row.network}, {step}: {error!r}"[:400])
    return row.steps[step] == WORKS


def in_own_process(family: str, seconds: int, max_bytes: int) -> Row:
    """The row of a family, whatever happens to the process."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(family, sender, max_bytes))
    started = time.monotonic()
    process.start()
    sender.close()
    row = Row(family=family)
    while process.is_alive() or receiver.poll():
        if time.monotonic() - started > seconds:
            process.kill()
            row.failures.append(f"{family}, {row.network}: no end after {seconds} s; done: {', '.join(row.steps)}")
            break
        try:
            if receiver.poll(1):
                row = Row(**receiver.recv())
        except EOFError:
            break
    process.join()
    if process.exitcode and not row.failures:
        row.failures.append(f"{family}, {row.network}: the process ended with {process.exitcode}")
    row.seconds = time.monotonic() - started
    return row


def _child(family: str, sender: Connection, max_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
    row = Row(family=family)
    with tempfile.TemporaryDirectory() as folder:
        try:
            examine(row, Path(folder))
        except Exception as error:
            row.failures.append(f"{family}, {row.network}: {error!r}"[:400])
    sender.send(asdict(row))


def table(rows: list[Row]) -> str:
    """The rows as a table in Markdown; reasons stand below it."""
    lines = [
        "| family | network | parameters | input | " + " | ".join(STEPS) + " |",
        "|---|---|--:|---|" + "---|" * len(STEPS),
    ]
    for row in rows:
        cells = [_cell(row.steps.get(step, "")) for step in STEPS]
        size = f"{row.parameters / 1e6:.1f} M"
        lines.append(f"| {row.family} | {row.network} | {size} | {row.shape} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(result: str) -> str:
    return result.partition(":")[0] or "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="*", default=timm.list_modules())
    parser.add_argument("--out", type=Path, default=None, help="write the table, and a .json with all reasons")
    parser.add_argument("--seconds", type=int, default=600, help="longest time of a family")
    parser.add_argument("--gibibytes", type=int, default=16, help="addresses for each; 400 M weights need 40")
    arguments = parser.parse_args()
    rows = []
    for family in arguments.families:
        row = in_own_process(family, arguments.seconds, arguments.gibibytes * 2**30)
        rows.append(row)
        print(f"{family:22} {row.network:32} {row.seconds:5.0f} s  {row.shape:16} "
              + " ".join(_cell(row.steps.get(step, "")) for step in STEPS), flush=True)  # fmt: skip
        for failure in row.failures:
            print(f"    FAILED {failure}", flush=True)
        if arguments.out is not None:
            arguments.out.write_text(table(rows))
            arguments.out.with_suffix(".json").write_text(json.dumps([asdict(row) for row in rows], indent=1))
    num_failed = sum(bool(row.failures) for row in rows)
    print(f"{len(rows)} families, {num_failed} with failures")
    sys.exit(1 if num_failed else 0)


if __name__ == "__main__":
    main()
