"""The page of results to review, used in a browser as a reader uses it, and its file read back as labels."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fundusgrade.data.labels import find_samples
from fundusgrade.grades import Grade
from fundusgrade.grading.identities import Eye
from fundusgrade.reports.review_entries import ReviewEntry, ReviewSample
from fundusgrade.reports.review_page import ReviewContent, review_html
from tests.browser import open_page, scrolls_sideways, serious_faults
from tests.models_for_tests import save_photographs
from tests.reports.drawn_reviews import HOSTILE_NAMES, cells, content, entry, patients

if TYPE_CHECKING:
    from playwright.sync_api import Page


def save(tmp_path: Path, shown: ReviewContent) -> Path:
    path = tmp_path / "grades.html"
    path.write_text(review_html(shown), encoding="utf-8")
    return path


def with_maps() -> list[ReviewEntry]:
    """Two patients with a photograph of each eye, and one with a second model that disagrees about the left eye."""
    return [
        entry("images/1_left.png", cells("", 0.10), patient="1", eye=Eye.LEFT, seed=1, maps=["Grad-CAM, tiny"]),
        entry("images/1_right.png", cells("", 0.05), patient="1", eye=Eye.RIGHT, seed=2, maps=["Grad-CAM, tiny"]),
        entry("images/2_left.png", cells("", 0.90), cells("", 0.20), patient="2", eye=Eye.LEFT, seed=3),
        entry(
            "images/2_right.png", cells("", 0.28, warnings=("near the operating point",)), patient="2", eye=Eye.RIGHT
        ),
        entry("images/3_left.png", cells("", 0.2, quality_reasons=("too dark",)), patient="3", eye=Eye.LEFT),
    ]


def shown_patients(page: Page) -> list[str]:
    return [each.inner_text() for each in page.locator(".patient").all()]


def current(page: Page) -> str:
    return page.locator("article.current .name").inner_text()


def give_name(page: Page, name: str = "Dr. A") -> None:
    page.locator("#reader").fill(name)
    page.keyboard.press("Enter")


def test_a_reader_filters_looks_at_maps_grades_undoes_and_downloads_labels(tmp_path: Path) -> None:
    path = save(tmp_path, content(with_maps()))
    for name in ("1_left", "1_right", "2_left", "2_right", "3_left"):
        [photograph] = save_photographs(tmp_path / "images", [int(name[0])])
        photograph.rename(photograph.with_name(f"{name}.png"))
    with open_page(path) as page:
        assert shown_patients(page) == ["Patient 1", "Patient 2", "Patient 3"]
        assert [each.inner_text() for each in page.locator(".row").nth(0).locator(".eye").all()] == [
            "Right eye", "Left eye",
        ]  # fmt: skip
        assert page.locator(".row").nth(2).locator(".no-photograph").inner_text() == "No photograph of the right eye"
        _filter(page)
        _look_at_map(page)
        for key in ("2", "0", "u"):
            page.keyboard.press(key)
            if key == "2":
                give_name(page)
        assert current(page) == "2_left.png"
        page.keyboard.press("z")
        assert current(page) == "2_right.png"
        page.keyboard.press("r")
        page.reload()
        assert page.locator("#progress").inner_text() == "Reviewed: 3 of 5; 2 differ from the model"
        with page.expect_download() as downloaded:
            page.locator("#download").click()
        assert downloaded.value.suggested_filename == "reviewed.csv"
        downloaded.value.save_as(tmp_path / "reviewed.csv")
    read = find_samples([tmp_path / "images"], labels=tmp_path / "reviewed.csv")
    assert read.layout == "reviewed"
    assert {(each.source, each.grade, each.patient, each.eye, each.without_grade) for each in read.samples} == {
        ("1_right.png", Grade.MODERATE, "1", "right", None),
        ("1_left.png", Grade.NONE, "1", "left", None),
        ("2_right.png", None, "2", "right", "to be referred without a grade"),
    }


def _filter(page: Page) -> None:
    page.get_by_label("Refer 1", exact=True).uncheck()
    assert shown_patients(page) == ["Patient 1", "Patient 3"]
    page.get_by_label("Refer 1", exact=True).check()
    for id_, value, expected in (
        ("flag", "flag:too dark", ["Patient 3"]),
        ("flag", "clear", ["Patient 1", "Patient 2"]),
        ("flag", "", ["Patient 1", "Patient 2", "Patient 3"]),
        ("near", "0.02", ["Patient 2"]),
        ("near", "", ["Patient 1", "Patient 2", "Patient 3"]),
        ("order", "score", ["Patient 2", "Patient 3", "Patient 1"]),
        ("order", "margin", ["Patient 2", "Patient 3", "Patient 1"]),
        ("order", "quality", ["Patient 3", "Patient 1", "Patient 2"]),
        ("order", "given", ["Patient 1", "Patient 2", "Patient 3"]),
    ):
        page.locator(f"#{id_}").select_option(value)
        assert shown_patients(page) == expected, (id_, value)
    page.locator("#disagree").check()
    assert shown_patients(page) == ["Patient 2"]
    page.locator("#disagree").uncheck()
    page.locator("#search").fill("3_LEFT")
    assert shown_patients(page) == ["Patient 3"]
    page.locator("#search").fill("")
    page.locator("article").first.click(position={"x": 250, "y": 10})


def _look_at_map(page: Page) -> None:
    picture = page.locator("article.current .picture img")
    before = picture.get_attribute("src")
    assert page.locator(".map-label:visible").count() == 0
    page.keyboard.press("h")
    assert picture.get_attribute("src") != before
    assert page.locator(".map-label:visible").inner_text() == "Grad-CAM, tiny"
    page.keyboard.press("h")
    assert picture.get_attribute("src") == before


def test_what_the_model_answers_is_hidden_until_the_reader_has_graded(tmp_path: Path) -> None:
    with open_page(save(tmp_path, content(with_maps()))) as page:
        page.locator("#blind").check()
        shown = page.locator("#rows").inner_text()
        for word in ("P(referable)", "near the operating point", "too dark", "models disagree", "Moderate", "Refer"):
            assert word not in shown, word
        assert page.locator("#states:disabled, #flag:disabled, #near:disabled").count() == 3
        page.keyboard.press("h")
        assert page.locator(".map-label:visible").count() == 0
        page.keyboard.press("1")
        give_name(page)
        first = page.locator("article").first
        assert "P(referable) 0.05" in first.inner_text() and "Dr. A: 1 Mild" in first.inner_text()
        assert page.locator("#rows").inner_text().count("P(referable)") == 1
        page.reload()
        assert page.locator("#blind").is_checked()


def test_arrows_move_and_the_large_view_is_graded_in_too(tmp_path: Path) -> None:
    with open_page(save(tmp_path, content(with_maps()))) as page:
        assert current(page) == "1_right.png"
        for key, expected in (
            ("ArrowRight", "1_left.png"),
            ("ArrowDown", "2_right.png"),
            ("ArrowUp", "1_right.png"),
            ("ArrowLeft", "1_right.png"),
        ):
            page.keyboard.press(key)
            assert current(page) == expected, key
        page.keyboard.press("Enter")
        assert page.locator("#view").is_visible()
        assert "small picture" in page.locator("#view-note").inner_text(), "there is no file of the photograph"
        page.keyboard.press("4")
        give_name(page)
        assert page.locator("#large").get_attribute("alt") == "1_left.png"
        page.keyboard.press("Escape")
        assert page.locator("#view").is_hidden()
        assert "Next: Patient 1, left eye, 1_left.png" in page.locator("#announcement").inner_text()
        page.keyboard.press("n")
        assert current(page) == "2_right.png"


def test_grades_of_two_pages_never_mix(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    pages = [save(first, content(with_maps())), save(second, content(with_maps()[:4]))]
    for number, path in enumerate(pages):
        with open_page(path, profile=tmp_path / "profile") as page:
            assert page.locator("#progress").inner_text().startswith("Reviewed: 0 of ")
            page.keyboard.press("3")
            give_name(page, f"reader {number}")
    with open_page(pages[0], profile=tmp_path / "profile") as page:
        assert page.locator("#progress").inner_text().startswith("Reviewed: 1 of 5")
        assert page.locator("#name").inner_text() == "Reader: reader 0"


def test_names_that_would_do_harm_are_shown_and_read_back_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    [drawn] = save_photographs(folder, [0])
    for name in HOSTILE_NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)  # a name with a slash is one in a folder
        shutil.copy(drawn, folder / name)
    drawn.unlink()
    path = save(tmp_path, content([entry(f"images/{name}", cells("", 0.1)) for name in HOSTILE_NAMES]))
    with open_page(path) as page:
        assert page.locator("article").count() == len(HOSTILE_NAMES)
        names = [each.inner_text() for each in page.locator(".name").all()]
        assert names[0] == HOSTILE_NAMES[0] and "\u202e" not in "".join(names)
        page.keyboard.press("1")
        give_name(page, "=cmd|'/c calc'!A1")
        for _ in HOSTILE_NAMES[1:]:
            page.keyboard.press("1")
        with page.expect_download() as downloaded:
            page.locator("#download").click()
        downloaded.value.save_as(tmp_path / "reviewed.csv")
    text = (tmp_path / "reviewed.csv").read_bytes().decode()
    assert not any(f'{start}"{sign}' in text for start in ("\n", ",", "\ufeff") for sign in "=+-@")
    read = find_samples([folder], labels=tmp_path / "reviewed.csv")
    assert [each.error for each in read.samples] == [None] * len(HOSTILE_NAMES)
    assert [each.path for each in read.samples] == [folder / name for name in HOSTILE_NAMES]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_has_no_serious_fault_of_accessibility_and_fits_the_window(
    tmp_path: Path, width: int, dark: bool
) -> None:
    shown = content([*with_maps(), *patients(20)], sample=ReviewSample(share=0.5, seed=0))
    with open_page(save(tmp_path, shown), width=width, dark=dark) as page:
        assert serious_faults(page) == []
        assert not scrolls_sideways(page)
        page.keyboard.press("2")
        assert serious_faults(page) == []
        give_name(page)
        page.keyboard.press("Enter")
        assert serious_faults(page) == []
        page.keyboard.press("Escape")
        page.keyboard.press("?")
        assert serious_faults(page) == []


def test_the_sample_is_marked_and_can_be_shown_alone(tmp_path: Path) -> None:
    shown = content(patients(40), sample=ReviewSample(share=0.2, seed=3))
    with open_page(save(tmp_path, shown)) as page:
        page.locator("#sampled").check()
        states = {each.inner_text() for each in page.locator(".row-head .state").all()}
        num_rows = page.locator(".row").count()
        assert states == {"Do not refer"} and num_rows == page.locator(".sample:visible").count() > 0
        assert f"{num_rows} of " in page.locator("header").inner_text()


def test_only_rows_near_the_window_are_drawn_and_all_are_printed(tmp_path: Path) -> None:
    with open_page(save(tmp_path, content(patients(200)))) as page:
        assert page.locator("#rows > li").count() == 200
        assert 0 < page.locator("article").count() < 100
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("article").count() == 400
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator("article").count() < 100
