"""What the page of results holds: rows, the sample, links, and data that no name can break out of."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fundusgrade.grades import Referral, Ungraded
from fundusgrade.grading.identities import Eye
from fundusgrade.outputs import MARK
from fundusgrade.photographs.field_of_view import find_field_of_view
from fundusgrade.photographs.sources import PhotographSource
from fundusgrade.reports.review_entries import ReviewSample, draw_sample
from fundusgrade.reports.review_page import json_for_script, link_to_photograph, review_html
from fundusgrade.reports.thumbnails import THUMBNAIL_PX, crop_to_retina, draw_thumbnail, read_thumbnail
from tests.drawn_eyes import off_center, plain_retina
from tests.models_for_tests import save_photographs
from tests.reports.drawn_reviews import HOSTILE_NAMES, as_cells, cells, content, entry, patients


def data_of(page: str) -> dict[str, list[dict[str, object]]]:
    [text] = re.findall('<script type="application/json" id="data">(.*?)</script>', page)
    return json.loads(text)  # type: ignore[no-any-return]


def test_no_name_ends_the_data_or_hides_in_it() -> None:
    page = review_html(content([entry(name, cells(name, 0.1)) for name in HOSTILE_NAMES]))
    assert page.count("</script>") == 6, "data, pictures, and four scripts"
    assert [each["name"] for each in data_of(page)["photographs"]][1] == HOSTILE_NAMES[1]
    assert page.isascii() or not re.search("[\u202e\ud800-\udfff]", page)
    assert json.loads(json_for_script("</script>&\u2028")) == "</script>&\u2028"


def test_the_same_results_give_the_same_page_and_others_another_key() -> None:
    first, second = (review_html(content([entry("a", cells("a", p))])) for p in (0.1, 0.1))
    assert first == second
    other = review_html(content([entry("a", cells("a", 0.2))]))
    moved = review_html(content([entry("a", cells("a", 0.1), photograph="../a")]))
    keys = [data_of(page)["key"] for page in (first, other, moved)]
    assert keys[0] == keys[2] != keys[1], "grades stay where the same results are written again"


def test_probabilities_are_stated_with_reserve_where_the_photograph_is_flagged() -> None:
    entries = [
        entry("a", cells("a", 0.99)),
        entry("b", cells("b", 0.99, warnings=("unlike the training photographs",))),
        entry("c", cells("c", 0.2996)),
        entry("d", as_cells(Ungraded(image="d", model="tiny", reason="no image"))),
    ]
    models = [each["models"][0] for each in data_of(review_html(content(entries)))["photographs"]]  # type: ignore[index]
    assert [model["stated"] for model in models] == ["0.99", "> 0.95", "0.2996", None]
    assert models[2]["from"] == "0.3000" and models[2]["referable"] == "no"
    assert models[3]["error"] == "no image" and models[3]["grade"] is None


def test_the_sample_is_of_negatives_and_the_same_on_every_machine() -> None:
    names = [f"patient {number}" for number in range(30)]
    drawn = draw_sample(names, ReviewSample(share=0.1, seed=0))
    assert drawn == {"patient 16", "patient 29", "patient 4"}
    assert draw_sample(names[::-1], ReviewSample(share=0.1, seed=0)) == drawn
    assert draw_sample(names, ReviewSample(share=0.1, seed=1)) != drawn
    assert len(draw_sample(names, ReviewSample(share=0.01, seed=0))) == 1, "rounded up"
    assert draw_sample([], ReviewSample(share=0.5, seed=0)) == frozenset()
    rows = data_of(review_html(content(patients(60), sample=ReviewSample(share=0.25, seed=0))))["rows"]
    sampled = [row for row in rows if row["sampled"]]
    num_negative = sum(row["referable"] == Referral.NO for row in rows)
    assert {row["referable"] for row in sampled} == {"no"} and len(sampled) == -(-num_negative // 4)


def test_a_patient_has_the_answer_of_the_worst_eye_and_eyes_stand_apart() -> None:
    entries = [
        entry("l", cells("l", 0.9), patient="1", eye=Eye.LEFT),
        entry("r", cells("r", 0.1), patient="1", eye=Eye.RIGHT),
        entry("x", cells("x", 0.1), patient="2"),
    ]
    first, second = data_of(review_html(content(entries)))["rows"]
    assert (first["referable"], first["right"], first["left"], first["unknown"]) == ("yes", [1], [0], [])
    assert (second["referable"], second["unknown"]) == ("no", [2])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("eye.jpg", "../in/eye.jpg"), ("a %#?.png", "../in/a %25%23%3F.png"), ("scan.dcm", ""), ("eye.tif", "")],
)
def test_photographs_that_browsers_show_are_linked_relative_to_the_page(
    tmp_path: Path, name: str, expected: str
) -> None:
    source = PhotographSource.of(tmp_path / "in" / name)
    assert link_to_photograph(source, tmp_path / "out" / "page.html") == expected


def test_thumbnails_are_cut_to_the_retina_small_and_marked(tmp_path: Path) -> None:
    eye = off_center(plain_retina(300), width_px=900, height_px=600, dx_px=150)
    height, width = eye.photograph.shape[:2]
    crop = crop_to_retina(find_field_of_view(eye.photograph), height=height, width=width)
    (tmp_path / "eye.jpg").write_bytes(data := draw_thumbnail(eye.photograph, crop))
    with Image.open(tmp_path / "eye.jpg") as image:
        assert max(image.size) == THUMBNAIL_PX and min(image.size) > 0.9 * THUMBNAIL_PX
        assert image.info["comment"] == MARK.encode()
        assert np.asarray(image)[:, :, 0].mean() > 0.5 * eye.photograph[..., 0].max() / 3
    assert len(data) < 10_000


def test_a_thumbnail_is_read_of_every_photograph_that_can_be_decoded(tmp_path: Path) -> None:
    [path] = save_photographs(tmp_path, [0])
    Image.fromarray(np.full((400, 300, 3), 128, np.uint8)).save(tmp_path / "gray.png")
    (tmp_path / "text.png").write_bytes(b"text")
    sizes = []
    for name in (path.name, "gray.png", "text.png"):
        thumbnail = read_thumbnail(PhotographSource.of(tmp_path / name))
        sizes.append(None if thumbnail is None else len(thumbnail) > 500)
    assert sizes == [True, True, None], "a picture without a retina is shown whole"
