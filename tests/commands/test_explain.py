"""`explain`: figures, raw heat maps and folders of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fundusgrade.metrics.conformal import Conformity
from fundusgrade.photographs.images import read_image
from fundusgrade.reports import explanation_run
from tests.command_line import Outcome
from tests.models_for_tests import install_model, save_photographs


def test_explain_verbatim(workplace: Path) -> None:
    install_model()
    save_photographs(workplace, [1])[0].rename("eye.png")
    outcome = Outcome("fundusgrade explain eye.png --out heat.png")
    assert outcome.code == 0
    number = r"-?\d+\.\d\d"
    assert re.fullmatch(
        r"eye\.png: grade 1 Mild: .+, p = \d\.\d\d; referable: (yes|no), p = \d\.\d+, from 0\.50+ \(tiny\)\n"
        rf"eye\.png: integrated-gradients of referable: attributions sum to {number}, the log-odds changes by {number} "
        rf"from the blurred baseline, gap [+-]\d+\.\d\d \(tiny\)\n",
        outcome.stdout,
    )
    assert outcome.stderr == "written: heat.png\n"
    assert min(read_image(workplace / "heat.png").shape[:2]) > 500
    assert sorted(path.name for path in workplace.iterdir()) == ["eye.png", "heat.png"]


def test_explain_makes_a_column_per_model(workplace: Path) -> None:
    for number in range(3):
        install_model(f"cnn-{number}", seed=number)
    save_photographs(workplace, [1])
    widths = []
    for count in (1, 3):
        chosen = " ".join(f"--model cnn-{number}" for number in range(count))
        outcome = Outcome(f"fundusgrade explain eye01.png {chosen} --out {count}.png")
        assert outcome.code == 0
        assert [f"(cnn-{number})" in outcome.stdout for number in range(3)] == [number < count for number in range(3)]
        assert outcome.stdout.count(": grade ") == outcome.stdout.count(" gap ") == count
        with Image.open(f"{count}.png") as figure:
            widths.append(figure.width)
    assert widths[1] - widths[0] > 2 * 600


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("auto", "referable"),
        ("predicted", None),
        ("referable", "referable"),
        ("0", "grade 0 No DR"),
        ("no_dr", "grade 0 No DR"),
        ("Severe", "grade 3 Severe"),
    ],
)
def test_explain_targets(target: str, expected: str | None, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fundusgrade.reports import explanation_pages

    drawn = []
    monkeypatch.setattr(explanation_pages, "draw_explanations", lambda rows, out, **named: drawn.extend(rows[0]))
    install_model()
    save_photographs(workplace, [1])
    assert Outcome(f"fundusgrade explain eye01.png --target {target}").code == 0
    predicted = drawn[0].prediction.grade
    assert drawn[0].target.name == (expected or f"grade {int(predicted)} {predicted.label}")


def test_explain_refuses_an_unknown_target_before_anything_else() -> None:
    outcome = Outcome("fundusgrade explain gone.png --target edema --model gone")
    assert outcome.code == 1
    assert "Error: unknown target 'edema'" in outcome.stderr
    assert "predicted, referable, expected, a grade 0 to 4" in outcome.stderr


def test_explain_names_its_figure_after_the_photograph(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "images", [1])
    assert Outcome("fundusgrade explain images/eye01.png").code == 0
    assert (workplace / "eye01-explained.png").is_file()


def test_explain_draws_a_row_per_method(workplace: Path) -> None:
    install_model()
    save_photographs(workplace, [1])
    heights = []
    for words in ("--method auto", "--method auto --method grad-cam@fine"):
        assert Outcome(f"fundusgrade explain eye01.png {words} --out heat.png --overwrite").code == 0
        with Image.open("heat.png") as figure:
            heights.append(figure.height)
    assert heights[1] > heights[0] + 400


def test_by_default_grad_cam_and_the_evidence_map_are_drawn(workplace: Path) -> None:
    install_model()
    save_photographs(workplace, [1])
    for name, words in (("default", ""), ("named", "--method grad-cam --method integrated-gradients")):
        assert Outcome(f"fundusgrade explain eye01.png {words} --arrays --out {name}.png").code == 0
    assert np.array_equal(read_image(workplace / "default.png"), read_image(workplace / "named.png"))
    assert sorted(path.name for path in workplace.glob("default*.npz")) == [
        "default-tiny-grad-cam.npz",
        "default-tiny-integrated-gradients.npz",
    ]


def test_a_color_scale_is_chosen_for_all_rows(workplace: Path) -> None:
    install_model()
    save_photographs(workplace, [1])
    shown = {}
    for scale in ("absolute", "relative"):
        assert Outcome(f"fundusgrade explain eye01.png --scale {scale} --out {scale}.png").code == 0
        shown[scale] = read_image(workplace / f"{scale}.png")
    assert not np.array_equal(shown["absolute"], shown["relative"])
    assert Outcome("fundusgrade explain eye01.png --scale logarithmic").code == 2


def test_the_figure_warns_of_a_photograph_of_doubtful_quality(workplace: Path) -> None:
    install_model()
    path = save_photographs(workplace, [1])[0]
    dark = Image.fromarray((read_image(path) * 0.12).astype(np.uint8))
    dark.save(path)
    outcome = Outcome("fundusgrade explain eye01.png --out heat.png")
    assert outcome.code == 0
    assert "doubtful quality" in outcome.stdout
    banner = read_image(workplace / "heat.png")[30:60, 60:-60].astype(int)
    assert ((banner[..., 0] > 240) & (banner[..., 2] < 210)).mean() > 0.5


def test_explain_saves_raw_maps(workplace: Path) -> None:
    install_model()
    save_photographs(workplace, [1])
    outcome = Outcome("fundusgrade explain eye01.png --arrays --target expected --out heat.png")
    assert outcome.code == 0
    assert "written: heat-tiny-integrated-gradients.npz" in outcome.stderr
    with np.load("heat-tiny-integrated-gradients.npz") as content:
        assert content["heat"].shape == (160, 160)
        assert str(content["target"]) == "expected"


def test_explain_makes_a_folder_with_an_index_also_of_failures(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "images" / "clinic", [1, 2])
    (workplace / "images" / "bad.png").write_bytes(b"")
    outcome = Outcome("fundusgrade explain images --out maps")
    assert outcome.code == 3
    assert outcome.stdout.count("; referable: ") == outcome.stdout.count(" gap ") == 2
    assert "not explained: images/bad.png: the file is empty" in outcome.stderr
    assert "written: maps/index.html" in outcome.stderr
    files = sorted(path.relative_to("maps").as_posix() for path in Path("maps").rglob("*") if path.is_file())
    figures = ["clinic/eye01-explained.jpg", "clinic/eye02-explained.jpg"]
    assert files == [*figures, "config.yaml", "explanations.jsonl", "index.html"]
    page = Path("maps/index.html").read_text()
    assert page.count('"figure":"clinic/eye') == 2 and "the file is empty" in page
    assert "explained: 2; not explained: 1" in page
    assert "fundusgrade" in page


def test_explain_tests_its_maps(workplace: Path) -> None:
    install_model()
    save_photographs(workplace, [1])
    outcome = Outcome("fundusgrade explain eye01.png --faithfulness --method grad-cam --target referable")
    assert outcome.code == 0
    for word in ("perturbation", "concentration", "randomization", "stability", "│ random ", "center", "ROAD"):
        assert word in outcome.stdout


@pytest.mark.parametrize("option", ["--method gradcam", "--method integrated-gradients@fine"])
def test_explain_refuses_an_unknown_method_before_anything_else(option: str) -> None:
    outcome = Outcome(f"fundusgrade explain gone.png {option} --model gone")
    assert outcome.code == 1
    assert "Error: unknown attribution method" in outcome.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.png"], "Error: gone.png: the file does not exist"),
        (["[red]gone.png"], "Error: [red]gone.png: the file does not exist"),
        (["eye01.png", "--out", "heat.gif"], "unknown suffix '.gif'"),
        (["eye01.png", "--out", "missing/heat.png"], "the folder missing does not exist"),
    ],
)
def test_explain_says_what_was_wrong(words: list[str], message: str, workplace: Path) -> None:
    install_model()
    save_photographs(workplace, [1])
    outcome = Outcome(["explain", *words])
    assert outcome.code == 1
    assert message in outcome.stderr


def test_a_mask_that_does_not_fit_does_not_end_the_run(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "images", [1, 2])
    (workplace / "masks").mkdir()
    Image.fromarray(np.zeros((20, 20), np.uint8)).resize((40, 40)).save("masks/eye01_HE.png")
    outcome = Outcome("fundusgrade explain images --out maps --masks masks")
    assert outcome.code == 3
    assert "eye01_HE.png has 40 x 40 pixels, its photograph 160 x 160" in outcome.stderr
    assert Path("maps/eye02-explained.jpg").is_file()


def test_several_photographs_need_a_folder(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "images", [1, 2])
    outcome = Outcome("fundusgrade explain images --out heat.png")
    assert outcome.code == 1
    assert "--out heat.png: several photographs need a folder" in outcome.stderr


def test_one_photograph_is_explained_alike_alone_and_in_a_folder(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "images", [1])
    assert Outcome("fundusgrade explain images --arrays --out maps").code == 0
    assert Outcome("fundusgrade explain images/eye01.png --arrays --out one.png").code == 0
    with (
        np.load("maps/eye01-explained-tiny-integrated-gradients.npz") as one,
        np.load("one-tiny-integrated-gradients.npz") as other,
    ):
        assert np.array_equal(one["heat"], other["heat"])


def test_an_interrupted_folder_keeps_and_reports_what_is_done(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explained, write_figure = [], explanation_run.write_figure

    def write_one(*arguments: Any) -> Any:
        if explained:
            raise KeyboardInterrupt
        explained.append(write_figure(*arguments))
        return explained[-1]

    install_model()
    save_photographs(workplace / "images", [1, 2])
    monkeypatch.setattr(explanation_run, "write_figure", write_one)
    outcome = Outcome("fundusgrade explain images --out maps --workers 1")
    assert (outcome.code, outcome.stdout.count(" gap "), "Interrupted." in outcome.stderr) == (130, 1, True)
    assert Path("maps/index.html").read_text().count('"figure":"eye') == 1


def test_explain_with_coverage_gives_sets_bounds_and_their_coverage_by_grade(workplace: Path) -> None:
    install_model(conformity=Conformity(sets=(0.1,) * 20, bounds=((0.2,) * 20,) * 5, set_grades=(0, 1, 2, 3) * 5))
    save_photographs(workplace / "images", [1, 2])
    outcome = Outcome("fundusgrade explain images --out maps --coverage 0.9")
    assert outcome.code == 0
    assert len(re.findall(r"; 90 % prediction set .+, could be as bad as .+ \(tiny\)", outcome.stdout)) == 2
    note = "tiny: 90 % prediction sets contain the true grade of 100 % of all 20, 100 % of 5 no DR"
    assert note in outcome.stderr
    assert note in (workplace / "maps" / "index.html").read_text(encoding="utf-8")


def test_masks_that_match_no_photograph_are_an_error_before_anything_is_computed(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "images", range(2))
    (workplace / "masks").mkdir()
    for folder, part in (("masks", "masks has none for eye00.png"), ("nowhere", "nowhere is no folder")):
        outcome = Outcome(f"fundusgrade explain images --out maps --masks {folder}")
        assert outcome.code == 1
        assert (
            f"no lesion masks for any of 2 photographs: {part}; expected names such as eye00_MA.png" in outcome.stderr
        )
        assert not (workplace / "maps").exists()


def figures_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*-explained.jpg"))}


def test_figures_do_not_depend_on_the_number_of_workers(workplace: Path) -> None:
    """With a method that hooks into modules: hooks of two photographs at once must not mix."""
    install_model()
    save_photographs(workplace / "images", range(6))
    arithmetic = "--device cpu --precision float32 --method grad-cam --method integrated-gradients"
    for workers in (1, 3):
        outcome = Outcome(f"fundusgrade explain images --out maps{workers} --workers {workers} {arithmetic}")
        assert outcome.code == 0, outcome.stderr
    assert len(figures_of(workplace / "maps1")) == 6
    assert figures_of(workplace / "maps1") == figures_of(workplace / "maps3")


def test_an_interrupted_folder_is_resumed_and_only_what_is_missing_is_explained(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_model()
    save_photographs(workplace / "images", range(5))
    (workplace / "images" / "broken.png").write_bytes(b"text")
    explained: list[str] = []
    write = explanation_run.write_figure

    def write_three(photograph: Any, *arguments: Any) -> Any:
        if len(explained) == 3:
            raise KeyboardInterrupt
        explained.append(photograph.path.name)
        return write(photograph, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(explanation_run, "write_figure", write_three)
        assert Outcome("fundusgrade explain images --out maps --workers 1").code == 130
    first = figures_of(workplace / "maps")
    assert len(first) < 5
    refused = Outcome("fundusgrade explain images --out maps")
    assert refused.code == 1 and "add --resume to keep them, or --overwrite to replace them" in refused.stderr
    other = Outcome("fundusgrade explain images --out maps --resume --target referable")
    assert other.code == 1
    assert "were made with other models or options" in other.stderr
    explained.clear()
    monkeypatch.setattr(
        explanation_run, "write_figure", lambda each, *rest: (explained.append(each.path.name), write(each, *rest))[1]
    )
    outcome = Outcome("fundusgrade explain images --out maps --workers 1 --resume")
    assert outcome.code == 3, outcome.stderr
    assert f"resuming: {len(first)} of 6 photographs are explained" in outcome.stderr
    assert sorted(explained) == sorted({"broken.png", *(f"eye{n:02d}.png" for n in range(len(first), 5))})
    assert {name: content for name, content in figures_of(workplace / "maps").items() if name in first} == first
    page = (workplace / "maps" / "index.html").read_text()
    assert all(f"eye{number:02d}.png" in page for number in range(5)) and "broken.png" in page
    assert len(re.findall("grade [0-4]", outcome.stdout)) >= 5, "what was kept is reported too"
