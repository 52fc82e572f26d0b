"""Draw eyes whose lesions and field of view are known to the pixel, for tests, benchmarks and `docs/samples`.

`python tests/drawn_eyes.py docs/samples` makes the samples again. Coordinates count from the center of the top left
pixel, x to the right and y down, as in OpenCV; lengths in the drawing are fractions of the disc's radius.
"""

from __future__ import annotations

import cmath
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fundusgrade.photographs.field_of_view import find_field_of_view
from fundusgrade.photographs.preprocess import PreprocessedImage, preprocess
from fundusgrade.photographs.recipe import PreprocessRecipe

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

SAMPLES = Path(__file__).resolve().parent.parent / "docs" / "samples"
LESION_CODES = {"microaneurysms": "MA", "haemorrhages": "HE", "exudates": "EX"}
# Beyond its mask a lesion may tint the retina no further than this; the longest fade is at the tips of a flame.
SOFT_EDGE_FRACTION = 0.042
# What is left of red, green and blue behind blood, and the color of lipid in bright light.
BLOOD = np.array([0.73, 0.37, 0.50], np.float32)
LIPID = np.array([250.0, 219.0, 128.0], np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ellipse:
    """An upright ellipse in pixels of the picture; it may reach beyond the picture."""

    center_x: float
    center_y: float
    radius_x: float
    radius_y: float

    def distance(self, x: Any, y: Any) -> Any:
        """0 at the center, 1 on the rim; of numbers or arrays."""
        return np.hypot((x - self.center_x) / self.radius_x, (y - self.center_y) / self.radius_y)

    def mask(self, *, height: int, width: int) -> Mask:
        """Which pixels of a picture of this size have their center inside, (height, width)."""
        y, x = np.ogrid[:height, :width]
        return np.asarray(self.distance(x, y) <= 1.0)

    def shifted(self, dx: float, dy: float) -> Ellipse:
        """The same ellipse moved by pixels."""
        return replace(self, center_x=self.center_x + dx, center_y=self.center_y + dy)

    def scaled(self, factor_x: float, factor_y: float) -> Ellipse:
        """The same ellipse after a resize by these factors, which keeps pixel edges rather than centers."""
        return Ellipse(
            center_x=(self.center_x + 0.5) * factor_x - 0.5,
            center_y=(self.center_y + 0.5) * factor_y - 0.5,
            radius_x=self.radius_x * factor_x,
            radius_y=self.radius_y * factor_y,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionMasks:
    """Where lesions were painted at half strength or more; each (H, W)."""

    microaneurysms: Mask
    haemorrhages: Mask
    exudates: Mask

    @property
    def union(self) -> Mask:
        """Where there is a lesion of any kind."""
        return self.microaneurysms | self.haemorrhages | self.exudates

    def each(self, change: Callable[[Mask], Mask]) -> LesionMasks:
        """The same change made to every mask."""
        return LesionMasks(**{field.name: change(getattr(self, field.name)) for field in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnEye:
    """A picture (H, W, 3) uint8 RGB and the truth about it; `disc` is the whole lit retina, even where it is cut."""

    photograph: NDArray[np.uint8]
    masks: LesionMasks
    disc: Ellipse
    optic_disc: Ellipse
    fovea: Ellipse

    @property
    def disc_mask(self) -> Mask:
        """The part of the disc that is in the picture."""
        return self.disc.mask(height=self.photograph.shape[0], width=self.photograph.shape[1])

    def seen_as(
        self,
        image: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
        mask: Callable[[Mask], Mask],
        ellipse: Callable[[Ellipse], Ellipse],
    ) -> DrawnEye:
        """The eye after a change of geometry, given for images, masks and ellipses."""
        return DrawnEye(
            photograph=image(self.photograph),
            masks=self.masks.each(mask),
            disc=ellipse(self.disc),
            optic_disc=ellipse(self.optic_disc),
            fovea=ellipse(self.fovea),
        )


def healthy_eye(size_px: int) -> DrawnEye:
    """The CC0 photograph of a healthy left eye, square; its disc was measured by a circle fit (0.5 px at 1411 px)."""
    with Image.open(SAMPLES / "healthy_eye.jpg") as source:
        photograph = np.asarray(source.convert("RGB"))
    eye = DrawnEye(
        photograph=photograph,
        masks=_no_lesions(photograph.shape[0], photograph.shape[1]),
        disc=Ellipse(center_x=704.3, center_y=703.0, radius_x=697.0, radius_y=697.0),
        optic_disc=Ellipse(center_x=215.0, center_y=650.0, radius_x=97.0, radius_y=114.0),
        fovea=Ellipse(center_x=712.0, center_y=701.0, radius_x=85.0, radius_y=85.0),
    )
    return squash(eye, width_px=size_px, height_px=size_px)


def plain_retina(size_px: int, seed: int = 0) -> DrawnEye:
    """A retina drawn without any photograph: the disc is an exact circle on near-black, 94 % of the picture wide."""
    rng = np.random.default_rng(seed)
    radius, middle = 0.47 * size_px, (size_px - 1) / 2
    disc = Ellipse(center_x=middle, center_y=middle, radius_x=radius, radius_y=radius)
    optic_disc = disc.shifted(-0.60 * radius, -0.05 * radius)
    optic_disc = replace(optic_disc, radius_x=0.14 * radius, radius_y=0.16 * radius)
    fovea = replace(disc, radius_x=0.12 * radius, radius_y=0.12 * radius)
    y, x = np.mgrid[:size_px, :size_px].astype(np.float32)
    light = 1.0 - 0.42 * disc.distance(x, y) ** 2 + 0.018 * _mottling((size_px, size_px), 0.06 * radius, rng)
    light -= 0.28 * np.exp(-1.2 * fovea.distance(x, y) ** 2)
    retina = np.array([208.0, 96.0, 52.0], np.float32) * light[..., None]
    glow = np.clip(3.5 - 2.5 * optic_disc.distance(x, y), 0, 1)[..., None] ** 2
    retina += glow * (np.array([246.0, 205.0, 138.0], np.float32) - retina)
    retina *= 1.0 - _vessels(size_px, optic_disc, radius, rng)[..., None] * np.array([0.22, 0.5, 0.4], np.float32)
    retina += rng.normal(0, 2.0, retina.shape)
    inside = np.clip((1.0 - disc.distance(x, y)) * radius + 0.5, 0, 1)[..., None]
    image = inside * np.maximum(retina, 12) + (1 - inside) * rng.uniform(0, 4, retina.shape)
    no_lesions = _no_lesions(size_px, size_px)
    return DrawnEye(photograph=_to_bytes(image), masks=no_lesions, disc=disc, optic_disc=optic_disc, fovea=fovea)


def paint_lesions(
    eye: DrawnEye, *, microaneurysms: int = 0, haemorrhages: int = 0, exudates: int = 0, seed: int = 0
) -> DrawnEye:
    """Paint this many of each lesion on a bare eye; paint before any view, while the disc is a whole circle.

    With one seed, fewer of one kind are a part of more of it. Microaneurysms and haemorrhages never touch others of
    their kind; exudates lie in clusters and may run together. Raises ValueError where the retina has no room left.
    """
    radius, shape = eye.disc.radius_x, eye.photograph.shape[:2]
    streams = [np.random.default_rng([seed, kind]) for kind in range(4)]
    vessels = _vessel_mask(eye)
    lipid = _cover(shape, _exudates(_Places(eye, vessels, streams[0]), exudates), edge_px=max(1.2, 0.0035 * radius))
    pools = _haemorrhages(_Places(eye, np.zeros_like(vessels), streams[1]), haemorrhages)
    blood = _cover(shape, pools, edge_px=max(1.6, 0.013 * radius))
    dots = _microaneurysms(_Places(eye, vessels | (blood > 0) | (lipid > 0), streams[2]), microaneurysms)
    dot = _cover(shape, dots, edge_px=max(1.4, 0.006 * radius))
    lipid *= 1 - blood  # blood lies in front
    age, clots = (_mottling(shape, scale * radius, streams[3]) for scale in (0.07, 0.006))
    strength = np.clip(0.8 + 0.16 * age + 0.06 * clots, 0.55, 1)
    image = _lay_lipid(eye.photograph.astype(np.float32), lipid, radius)
    image *= 1 - (np.maximum(blood, dot) * strength)[..., None] * (1 - BLOOD)
    masks = LesionMasks(
        microaneurysms=eye.masks.microaneurysms | (dot >= 0.5),
        haemorrhages=eye.masks.haemorrhages | (blood >= 0.5),
        exudates=eye.masks.exudates | (lipid >= 0.5),
    )
    return replace(eye, photograph=_to_bytes(image), masks=masks)


def cut(eye: DrawnEye, *, top: float = 0.0, bottom: float = 0.0, left: float = 0.0, right: float = 0.0) -> DrawnEye:
    """Drop these fractions of the picture at its edges, as a sensor smaller than the disc does."""
    height, width = eye.photograph.shape[:2]
    y, x = round(top * height), round(left * width)
    rows, columns = slice(y, height - round(bottom * height)), slice(x, width - round(right * width))
    return eye.seen_as(
        lambda p: p[rows, columns].copy(), lambda m: m[rows, columns].copy(), lambda e: e.shifted(-x, -y)
    )


def squash(eye: DrawnEye, *, width_px: int, height_px: int) -> DrawnEye:
    """Resize without regard to the proportions, as the APTOS pictures were."""
    height, width = eye.photograph.shape[:2]
    factor_x, factor_y = width_px / width, height_px / height
    method = cv2.INTER_AREA if max(factor_x, factor_y) <= 1 else cv2.INTER_LINEAR

    def resize(values: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(cv2.resize(values, (width_px, height_px), interpolation=method))

    return eye.seen_as(
        resize, lambda mask: resize(mask.astype(np.float32)) >= 0.5, lambda e: e.scaled(factor_x, factor_y)
    )


def darken(eye: DrawnEye, factor: float) -> DrawnEye:
    """Multiply the light by a factor of 0 to 1."""
    return replace(eye, photograph=_to_bytes(eye.photograph * np.float32(factor)))


def off_center(eye: DrawnEye, *, width_px: int, height_px: int, dx_px: int = 0, dy_px: int = 0) -> DrawnEye:
    """Lay the picture on a black canvas, the disc's center moved by this from the canvas's center (to half a pixel).

    What falls beyond the canvas is lost.
    """
    height, width = eye.photograph.shape[:2]
    left = round((width_px - 1) / 2 + dx_px - eye.disc.center_x)
    top = round((height_px - 1) / 2 + dy_px - eye.disc.center_y)
    rows, columns = slice(max(top, 0), max(top + height, 0)), slice(max(left, 0), max(left + width, 0))

    def lay(values: NDArray[Any]) -> NDArray[Any]:
        canvas = np.zeros((height_px, width_px, *values.shape[2:]), values.dtype)
        view = canvas[rows, columns]
        view[:] = values[max(-top, 0) :, max(-left, 0) :][: view.shape[0], : view.shape[1]]
        return canvas

    return eye.seen_as(lay, lay, lambda ellipse: ellipse.shifted(left, top))


def preprocess_photograph(photograph: NDArray[np.uint8], recipe: PreprocessRecipe) -> PreprocessedImage:
    """The preprocessed image of a photograph, whatever its quality."""
    return preprocess(photograph, find_field_of_view(photograph), recipe)


def make_samples(folder: Path) -> None:
    """Write the pictures and masks of `docs/samples`; the healthy photograph itself is only copied."""
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    source = SAMPLES / "healthy_eye.jpg"
    if (folder / source.name).resolve() != source:
        (folder / source.name).write_bytes(source.read_bytes())
    for name, eye in sample_eyes():
        Image.fromarray(eye.photograph).save(folder / f"{name}.jpg", quality=92, optimize=True)
        for kind, code in LESION_CODES.items():
            mask = Image.fromarray(getattr(eye.masks, kind))
            mask.save(folder / "masks" / f"{name}_{code}.png", optimize=True)


def sample_eyes() -> Iterator[tuple[str, DrawnEye]]:
    """Name and eye of every drawn sample: one eye in three states, the moderate one as three cameras show it."""
    healthy = healthy_eye(900)
    moderate = paint_lesions(healthy, microaneurysms=18, haemorrhages=9, exudates=55, seed=2)
    as_cut = cut(off_center(moderate, width_px=1000, height_px=900), top=0.12, bottom=0.12)
    yield "drawn_mild", paint_lesions(healthy, microaneurysms=6, seed=1)
    yield "drawn_moderate", moderate
    yield "drawn_severe", paint_lesions(healthy, microaneurysms=60, haemorrhages=92, exudates=190, seed=3)
    yield "camera_full_disc", squash(off_center(moderate, width_px=1280, height_px=960), width_px=1000, height_px=750)
    yield "camera_cut", as_cut
    yield "camera_squashed", squash(as_cut, width_px=800, height_px=800)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blob:
    """A rough ellipse; `place` is x + y * 1j in px, `waves` are amplitude and phase of its rim's harmonics 2, 3, ..."""

    place: complex
    length: float
    width: float
    angle: float
    waves: NDArray[np.float64]


class _Places:
    """Finds room for lesions: in the disc, off the optic disc and the avoided pixels, clear of earlier lesions."""

    def __init__(self, eye: DrawnEye, avoid: Mask, rng: np.random.Generator) -> None:
        self.eye, self.avoid, self.rng = eye, avoid, rng
        self.radius = eye.disc.radius_x
        self.taken: list[tuple[complex, float]] = []

    def find(self, propose: Callable[[], complex], reach: float) -> complex:
        """The first free proposal with this much room (px) around it."""
        for _ in range(2000):
            place = propose()
            if self._is_retina(place, reach) and all(abs(place - other) > reach + room for other, room in self.taken):
                self.taken.append((place, reach))
                return place
        raise ValueError("no room left on this retina: ask for fewer lesions or a larger picture")

    def _is_retina(self, place: complex, reach: float) -> bool:
        x, y, (height, width) = place.real, place.imag, self.avoid.shape
        in_image = reach <= x < width - 1 - reach and reach <= y < height - 1 - reach
        in_disc = self.eye.disc.distance(x, y) < 0.97 - reach / self.radius
        off_nerve = self.eye.optic_disc.distance(x, y) > 1.2 + reach / self.eye.optic_disc.radius_x
        return bool(in_image and in_disc and off_nerve and not self.avoid[round(y), round(x)])

    def around(self, ellipse: Ellipse, distance: float, turn: float) -> complex:
        """The point this far (in radii of the disc) and in this direction from an ellipse's center."""
        return complex(ellipse.center_x, ellipse.center_y) + distance * self.radius * cmath.exp(1j * turn)

    def blob(self, place: complex, *, length: float, width: float, angle: float, rough: float = 0.09) -> _Blob:
        """A blob with a random outline."""
        sizes = self.rng.normal(0, rough, 5) / np.arange(1, 6)
        waves = np.stack([sizes, self.rng.uniform(0, 2 * np.pi, 5)], axis=1)
        return _Blob(place=place, length=length, width=width, angle=angle, waves=waves)


def _microaneurysms(places: _Places, count: int) -> Iterator[_Blob]:
    """Dots 0.7 to 1 % as wide as the disc, most of them around the fovea but not in its center."""
    rng, eye = places.rng, places.eye

    def propose() -> complex:
        turn = rng.uniform(0, 2 * np.pi)
        if rng.random() < 0.7:
            return places.around(eye.fovea, 0.1 + 0.3 * abs(rng.normal()), turn)
        return places.around(eye.disc, 0.9 * np.sqrt(rng.random()), turn)

    for _ in range(count):
        size = max(1.1, places.radius * rng.uniform(0.006, 0.0095))
        place = places.find(propose, 2.5 * size)
        yield places.blob(place, length=size * rng.uniform(1, 1.2), width=size, angle=rng.uniform(0, 3), rough=0.05)


def _haemorrhages(places: _Places, count: int) -> Iterator[_Blob]:
    """Dots, blots of up to three lobes, and every third a flame; quadrant by quadrant."""
    rng = places.rng
    for index in range(count):

        def propose(quadrant: int = index % 4) -> complex:
            turn = (quadrant + rng.random()) * np.pi / 2
            return places.around(places.eye.disc, np.sqrt(rng.uniform(0.03, 0.86)), turn)

        size = max(1.6, places.radius * min(0.032, 0.013 * rng.lognormal(0, 0.45)))
        is_flame = index % 3 == 2
        place = places.find(propose, 4.0 * size if is_flame else 2.2 * size)
        yield from _flame(places, place, 2.9 * size) if is_flame else _blot(places, place, size)


def _blot(places: _Places, place: complex, size: float) -> Iterator[_Blob]:
    """A large lobe and up to two smaller ones on its rim."""
    rng = places.rng
    for lobe in range(rng.integers(1, 4)):
        turn, share = rng.uniform(0, 2 * np.pi), rng.uniform(0.45, 0.8) if lobe else 1.0
        at = place + 0.75 * size * np.exp(1j * turn) if lobe else place
        yield places.blob(at, length=size * share * rng.uniform(1, 1.4), width=size * share, angle=turn)


def _flame(places: _Places, place: complex, length: float) -> Iterator[_Blob]:
    """Two to four streaks side by side that point at the optic disc, as nerve fibers do."""
    rng, nerve = places.rng, places.eye.optic_disc
    angle = np.angle(place - complex(nerve.center_x, nerve.center_y)) + rng.normal(0, 0.12)
    streaks, width = int(rng.integers(2, 5)), length / 6
    for streak in range(streaks):
        along, across = rng.uniform(-0.4, 0.4) * length, (streak - (streaks - 1) / 2) * 1.15 * width
        at = place + (along + 1j * across) * np.exp(1j * angle)
        yield places.blob(at, length=length * rng.uniform(0.55, 1), width=width, angle=angle + rng.normal(0, 0.04))


def _exudates(places: _Places, count: int) -> Iterator[_Blob]:
    """Spots in clusters of 8 to 20 around the fovea; the larger ones lie in the middle of their cluster."""
    rng, left = places.rng, count
    while left:
        middle = places.around(places.eye.fovea, rng.uniform(0.18, 0.5), rng.uniform(0, 2 * np.pi))
        spread = places.radius * rng.uniform(0.025, 0.05)
        members = min(left, int(rng.integers(8, 21)))
        left -= members

        def propose(middle: complex = middle, spread: float = spread) -> complex:
            return middle + spread * complex(*rng.normal(size=2))

        for _ in range(members):
            place = places.find(propose, 0.0)
            size = 0.0085 * places.radius * rng.lognormal(0, 0.4) * np.exp(-0.3 * abs(place - middle) / spread)
            width = max(0.9, size)
            yield places.blob(
                place, length=width * rng.uniform(1, 1.8), width=width, angle=rng.uniform(0, 3), rough=0.15
            )


def _cover(shape: tuple[int, ...], blobs: Iterator[_Blob], *, edge_px: float) -> Floats:
    """How much of each pixel the blobs cover, 0 to 1; their outline is at one half."""
    cover = np.zeros(shape, np.float32)
    for blob in blobs:
        reach = int(1.8 * blob.length + 2 * edge_px) + 2
        left, top = max(int(blob.place.real) - reach, 0), max(int(blob.place.imag) - reach, 0)
        patch = cover[top : int(blob.place.imag) + reach, left : int(blob.place.real) + reach]
        y, x = np.mgrid[top : top + patch.shape[0], left : left + patch.shape[1]]
        turned = (x + 1j * y - blob.place) * np.exp(-1j * blob.angle)
        unit = turned.real / blob.length + 1j * turned.imag / blob.width
        rim = 1 + sum(size * np.cos(k * np.angle(unit) + phase) for k, (size, phase) in enumerate(blob.waves, start=2))
        depth = (1 - np.abs(unit) / np.maximum(rim, 0.4)) * blob.width
        np.maximum(patch, np.clip(0.5 + depth / min(edge_px, 0.8 * blob.width), 0, 1), out=patch)
    return cover


def _lay_lipid(image: Floats, cover: Floats, radius: float) -> Floats:
    """Blend crisp yellow into the picture, as bright as the light there, and let a little of the retina through."""
    light = cv2.GaussianBlur(image.max(axis=2), (0, 0), 0.06 * radius) / 225.0
    strength = cover * np.clip(
        0.8 + 0.14 * _mottling(cover.shape, 0.012 * radius, np.random.default_rng(0)), 0.45, 0.95
    )
    image += strength[..., None] * (LIPID * np.clip(light, 0.3, 1.05)[..., None] - image)
    return image


def _vessel_mask(eye: DrawnEye) -> Mask:
    """Pixels whose green is darker than their surroundings: a lesion on a vessel would hide in it."""
    green = eye.photograph[..., 1].astype(np.float32)
    return np.asarray(green < cv2.GaussianBlur(green, (0, 0), 0.02 * eye.disc.radius_x) - 5)


def _vessels(size_px: int, optic_disc: Ellipse, radius: float, rng: np.random.Generator) -> Floats:
    """Four arcades that leave the optic disc, bend around the fovea and branch; 0 to 1."""
    canvas = np.zeros((size_px, size_px), np.uint8)
    start = complex(optic_disc.center_x, optic_disc.center_y)
    stems = (
        (-76, 2.2, 0.024),
        (74, -2.1, 0.024),
        (-101, 0.2, 0.016),
        (103, -0.3, 0.016),
        (170, 0, 0.008),
        (-8, 0, 0.007),
    )
    branches = [(start, np.radians(turn), np.radians(bend), width) for turn, bend, width in stems]
    while branches:
        place, heading, bend, width = branches.pop()
        wander = 0.0
        while width > 0.0035 and abs(place - complex(size_px, size_px) / 2) < 1.02 * radius:
            wander = 0.7 * wander + rng.normal(0, 0.035)
            heading += bend + wander
            end = place + 0.04 * radius * cmath.exp(1j * heading)
            ends = [(round(16 * point.real), round(16 * point.imag)) for point in (place, end)]
            color = round(255 * min(1.0, 0.3 + width / 0.03))
            cv2.line(canvas, ends[0], ends[1], color, max(1, round(width * radius)), cv2.LINE_AA, shift=4)
            if rng.random() < 0.13:
                branches.append((end, heading + rng.choice([-0.6, 0.6]), -0.5 * bend, 0.5 * width))
            place, width = end, 0.97 * width
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), max(0.5, 0.003 * radius)) / np.float32(255), np.float32)


def _mottling(shape: tuple[int, ...], scale_px: float, rng: np.random.Generator) -> Floats:
    """Smooth noise around 0 with a deviation of about 1 and patches of this size."""
    height, width = (int(np.ceil(length / max(scale_px, 1.0))) + 1 for length in shape[:2])
    coarse = rng.normal(size=(height, width)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC))


def _no_lesions(height: int, width: int) -> LesionMasks:
    empty = np.zeros((height, width), np.bool_)
    return LesionMasks(microaneurysms=empty, haemorrhages=empty, exudates=empty)


def _to_bytes(image: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.rint(image), 0, 255), np.uint8)


if __name__ == "__main__":
    make_samples(Path(sys.argv[1]))
