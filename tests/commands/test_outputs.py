"""No command writes over what it reads, over a file that is not its own, or over its own without `--overwrite`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from fundusgrade import store
from fundusgrade.outputs import check_outputs
from tests.command_line import Outcome
from tests.models_for_tests import install_model, save_labeled_photographs, save_photographs

FOREIGN = b"notes of a clinic, which exist once\n"


@pytest.fixture
def eyes(workplace: Path) -> Path:
    """A folder of two photographs, and a model."""
    install_model()
    save_photographs(workplace / "images", [1, 2])
    return workplace / "images"


def refused(words: str, reason: str) -> None:
    """Assert that a command ends with an error of this reason, and that no file has changed or come."""
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    outcome = Outcome(f"fundusgrade {words}")
    assert (outcome.code, reason in outcome.stderr) == (1, True), outcome.stderr
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("kind", ["same path", "spelling", "symlink", "hard link", "dangling link"])
def test_a_photograph_is_not_replaced_by_its_figure_through_any_name(kind: str, eyes: Path) -> None:
    photograph, out = Path("images/eye01.png"), Path("figure.png")
    reason = "it is the same file as images/eye01.png, which is read"
    match kind:
        case "same path":
            out = photograph
        case "spelling":
            out = Path("images/../images/eye01.png")
        case "symlink":
            out.symlink_to(photograph)
        case "hard link":
            os.link(photograph, out)
        case "dangling link":
            out.symlink_to("elsewhere.png")
            reason = "it is a link"
    refused(f"explain {photograph} --out {out} --overwrite", reason)


def test_rows_replace_neither_labels_nor_lists_nor_weights(eyes: Path) -> None:
    Path("train.csv").write_text("id_code,diagnosis\neye01,2\n")
    refused("predict images --csv train.csv --overwrite", "not written by fundusgrade")
    Path("list.csv").write_text("images/eye01.png\n")
    refused("predict --list list.csv --csv list.csv --overwrite", "same file as list.csv, which is read")
    Path("patients.csv").write_text("image,patient\neye01.png,1\n")
    refused("predict images --csv a.csv --by-patient a.csv --patients patients.csv", "which is written too")
    refused("predict images --csv a.csv --by-patient patients.csv --patients patients.csv", "which is read")
    weights = store.resolve_model("tiny")
    shutil.copy(weights, "rows.csv")
    refused("predict images --model rows.csv --csv rows.csv --overwrite", "which is read")


@pytest.mark.parametrize("name", ["a.csv.json", "a.csv.partial", "a.csv.partial.json"])
def test_a_file_that_is_in_the_way_beside_the_rows_is_kept(name: str, eyes: Path) -> None:
    Path(name).write_bytes(FOREIGN)
    refused("predict images --csv a.csv --overwrite", f"cannot write {name}: the file that is there was not written by")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_rows_of_any_format_are_recognized_and_replaced_on_demand_only(suffix: str, eyes: Path) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    pattern = r"--patient-pattern '(?P<patient>\d+)'"
    predict = f"predict images --csv a{suffix} --by-patient p{suffix} {pattern} --threshold 1"
    assert Outcome(f"fundusgrade {predict}").code == 0
    refused(predict, f"cannot write a{suffix}: the file exists; add --overwrite")
    Path(f"a{suffix}").unlink()
    refused(predict, f"cannot write p{suffix}: the file exists; add --overwrite")
    assert Outcome(f"fundusgrade {predict} --overwrite").code == 0
    assert Outcome(f"fundusgrade {predict} --overwrite").code == 0


def test_an_empty_file_has_nothing_to_lose(eyes: Path) -> None:
    Path("a.csv").touch()
    assert Outcome("fundusgrade predict images --csv a.csv").code == 0


def test_merged_rows_do_not_replace_a_file_of_another(eyes: Path) -> None:
    assert Outcome("fundusgrade predict images --csv a.csv --shard 1/1").code == 0
    merge = "merge images --csv a.csv"
    Path("a.csv").write_bytes(FOREIGN)
    refused(f"{merge} --overwrite", "not written by fundusgrade")
    Path("a.csv").unlink()
    assert Outcome(f"fundusgrade {merge}").code == 0
    refused(merge, "add --overwrite")
    assert Outcome(f"fundusgrade {merge} --overwrite").code == 0


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_a_figure_of_any_format_is_recognized(suffix: str, eyes: Path) -> None:
    explain = f"explain images/eye01.png --method grad-cam --arrays --out map{suffix}"
    assert Outcome(f"fundusgrade {explain}").code == 0
    refused(explain, f"cannot write map{suffix}: the file exists; add --overwrite")
    assert Outcome(f"fundusgrade {explain} --overwrite").code == 0
    Path(f"map{suffix}").unlink()
    refused(explain, "cannot write map-tiny-grad-cam.npz: the file exists; add --overwrite")


def test_figures_of_a_folder_spare_what_is_there_and_the_photographs(eyes: Path) -> None:
    refused("explain images --out images", "it is the folder images, which is read")
    Path("link").symlink_to("images")
    refused("explain images --out link", "it is the folder images, which is read")
    Path("maps").mkdir()
    Path("maps/index.html").write_bytes(FOREIGN)
    refused("explain images --method grad-cam --out maps --overwrite", "not written by fundusgrade")
    Path("maps/index.html").unlink()
    explain = "explain images --method grad-cam --out maps"
    assert Outcome(f"fundusgrade {explain}").code == 0
    refused(explain, "or --overwrite to replace them")
    Path("maps/eye01-explained.jpg").unlink()
    Path("maps/eye02-explained.jpg").unlink()
    refused(explain, "maps holds figures of an earlier run; add --resume to keep them, or --overwrite to replace them")
    Path("maps/explanations.jsonl").unlink()
    refused(explain, "cannot write maps/index.html: the file exists; add --overwrite")
    assert Outcome(f"fundusgrade {explain} --overwrite").code == 0


def test_an_evaluation_spares_pictures_and_its_own_files(workplace: Path) -> None:
    save_labeled_photographs(workplace / "eyes")
    assert Outcome("fundusgrade preprocess eyes --size 64 --method natural --name eyes").code == 0
    install_model()
    evaluate = "evaluate --split all --resamples 100 --device cpu"
    refused(f"{evaluate} --report eyes/0/eye00.png --overwrite", "unknown suffix '.png'; use .html, .htm")
    Path("report.html").write_bytes(FOREIGN)
    refused(f"{evaluate} --report report.html --overwrite", "not written by fundusgrade")
    Path("report.html").unlink()
    assert Outcome(f"fundusgrade {evaluate} --report report.html --images 0 --out out").code == 0
    refused(f"{evaluate} --report report.html", "cannot write report.html: the file exists; add --overwrite")
    names = ("evaluation.json", "confusion.png", "predictions-tiny.csv")
    for name in names:
        refused(f"{evaluate} --out out", f"cannot write out/{name}: the file exists; add --overwrite")
        Path("out", name).rename(f"{name}.kept")
    for name in names:
        Path(f"{name}.kept").rename(Path("out", name))
    predictions = "out/predictions-tiny.csv"
    refused(f"evaluate --predictions {predictions} --data eyes --out out --overwrite", "which is read")
    assert Outcome(f"fundusgrade {evaluate} --report report.html --images 0 --out out --overwrite").code == 0


def test_an_export_spares_what_is_there_and_the_model_that_it_comes_from(workplace: Path) -> None:
    install_model()
    Path("a.onnx.json").write_bytes(FOREIGN)
    refused("export tiny --no-check --out a.onnx --overwrite", "cannot write a.onnx.json: the file that is there")
    Path("a.onnx.json").unlink()
    for words, last in (("--out a.onnx", "a.onnx"), ("--format openvino --out a.xml", "a.bin")):
        if "openvino" in words:
            pytest.importorskip("openvino")
        assert Outcome(f"fundusgrade export tiny --no-check {words}").code == 0
        refused(f"export tiny --no-check {words}", "add --overwrite")
        assert Outcome(f"fundusgrade export tiny --no-check {words} --overwrite").code == 0
        Path(last).write_bytes(FOREIGN)  # no longer the file that the JSON beside it describes
        refused(f"export tiny --no-check {words} --overwrite", "not written by fundusgrade")


def test_a_data_set_is_not_replaced_by_one_of_other_photographs(workplace: Path) -> None:
    for site in ("a", "b"):
        save_labeled_photographs(workplace / site / "data")
    preprocess = "fundusgrade preprocess {}/data --size 64 --method natural"
    assert Outcome(preprocess.format("a")).code == 0
    folder = store.dataset_directory("data")
    before = (folder / "dataset.json").read_bytes()
    other = Outcome(preprocess.format("b"))
    assert (other.code, "choose another --name, or add --overwrite" in other.stderr) == (1, True)
    assert (folder / "dataset.json").read_bytes() == before
    assert Outcome(preprocess.format("a")).code == 0
    assert Outcome(preprocess.format("b") + " --overwrite").code == 0
    assert f'"{(workplace / "b/data").resolve().as_posix()}"' in (folder / "dataset.json").read_text()


def test_data_sets_of_photographs_without_labels_are_told_apart_in_one_working_folder(workplace: Path) -> None:
    for site in ("a", "b"):
        save_photographs(workplace / site / "new", [1, 2])
    assert Outcome("fundusgrade preprocess a/new --size 64").code == 0
    refused("preprocess b/new --size 64", "was made of 2 other photographs")
    save_photographs(workplace / "a" / "new", [3])
    assert Outcome("fundusgrade preprocess a/new --size 64").code == 0  # more photographs of the same folder are added


def test_a_model_is_not_replaced_by_one_that_is_made_from_it() -> None:
    install_model("mine")
    path = store.resolve_model("mine")
    with pytest.raises(store.StoreError, match="which is read"):
        store.folder_of_new_model("mine", overwrite=True, inputs=[path])
    with pytest.raises(store.StoreError, match="or --overwrite to replace it"):
        store.folder_of_new_model("mine", overwrite=False)
    assert store.folder_of_new_model("mine", overwrite=True) == path.parent


def test_devices_may_be_written_and_a_folder_may_not(workplace: Path) -> None:
    check_outputs([Path(os.devnull)], suffixes=(".csv",))
    Path("folder.csv").mkdir()
    with pytest.raises(store.StoreError, match="it is a folder"):
        check_outputs([Path("folder.csv")])
    Path("file").write_bytes(FOREIGN)
    with pytest.raises(store.StoreError, match="file is not a folder"):
        check_outputs([Path("file/a.csv")])
