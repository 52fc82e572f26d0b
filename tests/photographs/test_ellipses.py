"""Circles and ellipses through points: distances, and robust fits to points with outliers."""

from __future__ import annotations

import numpy as np

from fundusgrade.photographs.ellipses import distances_px, fit_circle, fit_trimmed


def points_on_circle(count: int, *, center: tuple[float, float], radius: float) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([center[0] + radius * np.cos(angles), center[1] + radius * np.sin(angles)], axis=1)


def test_distances_are_measured_along_the_ray_from_the_center() -> None:
    points = np.array([[3.0, 0.0], [0.0, 5.0], [0.5, 0.0]])
    circle, ellipse = [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 2.0, 4.0]
    assert np.allclose(distances_px(points, np.array([circle, ellipse])), [[2.0, 4.0, 0.5], [1.0, 1.0, 1.5]])


def test_a_circle_is_found_among_outliers() -> None:
    circle = points_on_circle(300, center=(150.0, 140.0), radius=100.0)
    outliers = np.random.default_rng(1).uniform(0, 300, (90, 2))
    found = fit_circle(np.concatenate([circle, outliers]), 320)
    assert found is not None
    assert np.allclose(found.ellipse, [150.0, 140.0, 100.0, 100.0], atol=0.2)
    assert found.inliers[:300].all() and found.inliers[300:].mean() < 0.2


def test_a_fit_leaves_out_the_tenth_of_the_points_that_lies_furthest_off() -> None:
    circle = points_on_circle(100, center=(150.0, 140.0), radius=100.0)
    circle[:8] += 9.0
    assert np.allclose(fit_trimmed(circle, 3), [150.0, 140.0, 100.0, 100.0], atol=1e-6)
