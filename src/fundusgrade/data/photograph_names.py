"""The photograph that a label names: whatever the suffix, the case, the separators and the form of accents."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fundusgrade.photographs.sources import PHOTOGRAPH_SUFFIXES, find_files
from fundusgrade.text import printable

_SPLIT_WORD = re.compile(r"train|val|test")
_NO_PHOTOGRAPHS = re.compile(r"mask|ground ?truth", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotographIndex:
    """The photographs below a folder, found by name."""

    folder: Path
    paths: tuple[Path, ...]
    by_stem: dict[str, list[Path]]

    @classmethod
    def of(cls, folder: Path) -> PhotographIndex:
        """Index the photographs of a folder."""
        return _indexed(folder, [photograph.path for photograph in find_files([folder])])

    def has(self, image: str) -> bool:
        """Whether any photograph has the name that a label gives."""
        return bool(self._candidates(_parts(image)))

    def of_label_file(self, label_file: Path) -> PhotographIndex:
        """The photographs that can be those of a label file that is one of several.

        Those beside it, if it lies in a folder with photographs; else those of no other part (training, validation,
        test) than the one that it is named after.
        """
        beside = label_file.parent
        own = [path for path in self.paths if beside in path.parents] if beside != self.folder else []
        word = _split_word(label_file.name)
        if not own:
            own = [path for path in self.paths if word is None or word in (self._split_words(path) or {word})]
        return _indexed(self.folder, own)

    def find(self, image: str, label_file: Path) -> tuple[Path | None, str | None]:
        """The photograph that a label names, or the reason why there is not exactly one.

        A label may leave out the suffix and outer folders, or include folders above this one; the parts that label and
        path both have must agree. Among several the exact name decides, then the nearest to the label file, then the
        part (training, validation, test) that both are named after.
        """
        named = _parts(image)
        candidates = self._written(image) or self._candidates(named)
        for rank in self._ranks(named, label_file) if len(candidates) > 1 else ():
            best = max(map(rank, candidates))
            candidates = [path for path in candidates if rank(path) == best]
        if len(candidates) == 1:
            return candidates[0], None
        if not candidates:
            return None, f"no photograph named {image!r} below the data set's folder"
        places = ", ".join(path.relative_to(self.folder).parent.as_posix() for path in candidates[:4])
        return None, f"several photographs are named {image!r} (in {places}); keep one copy below the folder"

    def num_without_label(self, labeled: set[Path]) -> int:
        """Photographs that are not among those labeled; masks and other ground truth are not counted."""
        return sum(path not in labeled and not self._is_ground_truth(path) for path in self.paths)

    def _candidates(self, named: tuple[str, ...]) -> list[Path]:
        folded = _folded_parts(named)
        return [path for path in self.by_stem.get(folded[-1], []) if self._num_agreeing(path, folded) > 0]

    def _written(self, image: str) -> list[Path]:
        """The photographs whose path ends as a label of ours is written, where that is no usual name.

        Such a name has a backslash, which elsewhere divides folders, or bytes that are not UTF-8, which become one.
        """
        if "\\" not in image:
            return []
        return [path for path in self.paths if f"/{image}".endswith(f"/{printable(path.name)}")]

    def _num_agreeing(self, path: Path, folded: list[str]) -> int:
        below = path.relative_to(self.folder)
        parts = [*map(_folded, below.parts[:-1]), _folded(below.stem)]
        length = min(len(parts), len(folded))
        return length if parts[-length:] == folded[-length:] else 0

    def _ranks(self, named: tuple[str, ...], label_file: Path) -> tuple[Callable[[Path], int], ...]:
        """What decides between photographs, in this order; the higher the better."""
        folded = _folded_parts(named)
        suffix = _suffix(named[-1])
        return (
            lambda path: suffix != "" and path.relative_to(self.folder).parts == named,
            lambda path: self._num_agreeing(path, folded),
            lambda path: path.name == named[-1] or (not suffix and path.stem == named[-1]),
            lambda path: path.suffix.lower() == suffix.lower(),
            lambda path: not self._is_ground_truth(path),
            lambda path: _num_shared(path.parts, label_file.parts),
            lambda path: _split_word(label_file.name) in self._split_words(path),
        )

    def _split_words(self, path: Path) -> set[str]:
        return set(_SPLIT_WORD.findall(path.relative_to(self.folder).parent.as_posix().lower()))

    def _is_ground_truth(self, path: Path) -> bool:
        return _NO_PHOTOGRAPHS.search(path.relative_to(self.folder).parent.as_posix()) is not None


def _indexed(folder: Path, paths: Sequence[Path]) -> PhotographIndex:
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        by_stem[_folded(path.stem)].append(path)
    return PhotographIndex(folder=folder, paths=tuple(paths), by_stem=dict(by_stem))


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _folded_parts(named: tuple[str, ...]) -> list[str]:
    """The parts of a name as they are compared: without suffix and case."""
    return [*map(_folded, named[:-1]), _folded(_stem(named[-1]))]


def _parts(image: str) -> tuple[str, ...]:
    """The parts of a path with either kind of separator; a Windows path loses its drive and root."""
    if "\\" in image:
        image = re.sub(r"^[A-Za-z]:", "", image.replace("\\", "/")).lstrip("/")
    return tuple(part for part in PurePosixPath(image).parts if part != "..") or ("",)


def _suffix(name: str) -> str:
    suffix = PurePosixPath(name).suffix
    return suffix if suffix.lower() in PHOTOGRAPH_SUFFIXES else ""


def _stem(name: str) -> str:
    return name.removesuffix(_suffix(name))


def _split_word(name: str) -> str | None:
    found = _SPLIT_WORD.search(name.lower())
    return found[0] if found else None


def _num_shared(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
