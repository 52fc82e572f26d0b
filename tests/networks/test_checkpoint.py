"""A checkpoint comes back as it was saved or not at all, and never through pickle."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from safetensors import safe_open

from fundusgrade import files, store
from fundusgrade.data.leakage import TrainingFingerprints
from fundusgrade.errors import CheckpointError
from fundusgrade.metrics.referral import choose_operating_point, referral_scores
from fundusgrade.networks.build import build_network, network_spec
from fundusgrade.networks.checkpoint import load_checkpoint, replace_description, save_checkpoint
from fundusgrade.networks.checkpoint_file import FINGERPRINT_TABLES, HASH_KEY, METADATA_KEY, read_description
from fundusgrade.networks.description import CheckpointDescription, Provenance
from fundusgrade.networks.device import choose_device
from fundusgrade.networks.inference import predict_probabilities
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.options import DeviceName, Precision
from fundusgrade.photographs.recipe import RECIPE_VERSION, Method, PreprocessRecipe


def saved(path: Path, arch: str = "cnn", *, half: bool = False, seed: int = 0) -> GradingNetwork:
    torch.manual_seed(seed)
    network = build_network(network_spec(arch, 64))
    with torch.no_grad():
        network(torch.rand(4, 3, 64, 64))  # so that running means are not those of a new network
    save_checkpoint(path, network, describe(network), half=half)
    return network


def describe(network: GradingNetwork) -> CheckpointDescription:
    return CheckpointDescription(
        name="drawn",
        network=network.spec,
        recipe=PreprocessRecipe(method=Method.CLAHE, size_px=64),
        provenance=Provenance(
            created="2025-01-31T12:00:00+00:00",
            data_name="drawn",
            data_hash="ab" * 32,
            init="random",
            options={"arch": network.spec.arch, "seed": 3, "learning_rate": 1e-3},
            metrics={"validation_kappa": None, "best_epoch": 2},
            versions={"timm": "1.0"},
        ),
    )


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the description, with a hash that fits, as another version might have written it."""
    with safe_open(path, framework="pt") as file:
        described = json.loads(file.metadata()[METADATA_KEY])
    change(described)
    text = json.dumps(described)
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors, path, {METADATA_KEY: text, HASH_KEY: files.hash_text(text)})


@pytest.mark.parametrize("arch", ["cnn", "test_resnet", "test_vit"])
def test_float32_comes_back_bit_by_bit(tmp_path: Path, arch: str) -> None:
    network = saved(tmp_path / "model.safetensors", arch)
    loaded = load_checkpoint(tmp_path / "model.safetensors").network
    assert loaded.state_dict().keys() == network.state_dict().keys()
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert not loaded.training
    buffers = dict(network.named_buffers())  # also those that are not stored
    assert {"mean", "std"} <= buffers.keys() == dict(loaded.named_buffers()).keys()
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in loaded.named_buffers())
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in network.parameters()]


def test_a_network_that_computes_tables_of_its_own_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    network = build_network(replace(network_spec("vit_relpos_small_patch16_224", 64), arguments=small)).eval()
    computed = [name for name, _ in network.backbone.named_buffers() if f"backbone.{name}" not in network.state_dict()]
    assert computed, "the index of relative positions is not stored"
    save_checkpoint(tmp_path / "model.safetensors", network, describe(network))
    loaded = load_checkpoint(tmp_path / "model.safetensors").network
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded(images), network(images))


def test_fingerprints_come_back_and_those_of_another_length_are_an_error(tmp_path: Path) -> None:
    path, rng = tmp_path / "model.safetensors", np.random.default_rng(0)
    network = saved(path)
    assert not load_checkpoint(path).fingerprints.is_known
    tables = {name: rng.integers(0, 256, (3, num_bytes), np.uint8) for name, num_bytes in FINGERPRINT_TABLES.items()}
    save_checkpoint(path, network, describe(network), fingerprints=TrainingFingerprints(**tables))
    found = load_checkpoint(path).fingerprints
    assert found.is_known
    for name, table in tables.items():
        np.testing.assert_array_equal(getattr(found, name), table)
    shorter = {**tables, "fingerprints": tables["fingerprints"][:, :32]}
    save_checkpoint(path, network, describe(network), fingerprints=TrainingFingerprints(**shorter))
    with pytest.raises(CheckpointError, match=r"the training fingerprints in .* are damaged; copy the file again"):
        load_checkpoint(path)


def test_a_network_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "model.safetensors", "test_resnet")
    built = []
    create_model = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda *args, **kwargs: built.append(args) or create_model(*args, **kwargs)
    )
    load_checkpoint(tmp_path / "model.safetensors")
    assert built == [("test_resnet",)]


def test_a_loaded_network_does_not_change_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    network = saved(path)
    loaded = load_checkpoint(path).network
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in loaded.state_dict().items())


def test_the_description_is_read_without_building_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    saved(path, "test_resnet")
    expected = load_checkpoint(path).description
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: pytest.fail("a network was built"))
    assert read_description(path) == expected


def test_a_description_that_was_changed_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    saved(path, "test_efficientnet")
    path.write_bytes(path.read_bytes().replace(b"0.485", b"0.585"))
    with pytest.raises(CheckpointError, match=r"description .* is not the one that was saved.*copy the file again"):
        read_description(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match=r"not a whole safetensors file"):
        read_description(path)


def test_the_description_comes_back(tmp_path: Path) -> None:
    network = saved(tmp_path / "model.safetensors", "test_vit")
    description = load_checkpoint(tmp_path / "model.safetensors").description
    assert len(description.weights_sha256) == 64
    assert replace(description, weights_sha256="") == describe(network)


def test_the_operating_point_comes_back_and_a_file_without_one_has_none(tmp_path: Path) -> None:
    path, rng = tmp_path / "model.safetensors", np.random.default_rng(0)
    network = saved(path)
    scores = referral_scores(["drawn"] * 60, rng.integers(0, 5, 60), rng.random(60), np.arange(60))
    point = choose_operating_point(scores, scores)
    save_checkpoint(path, network, replace(describe(network), operating_point=point))
    assert point is not None and read_description(path).operating_point == point
    rewrite(path, lambda described: described.pop("operating_point"))
    assert load_checkpoint(path).description.operating_point is None


@pytest.mark.parametrize("half", [False, True])
def test_another_description_leaves_tensors_and_their_hash(tmp_path: Path, *, half: bool) -> None:
    path, tables = tmp_path / "model.safetensors", {"files": 8, "fingerprints": 128, "patients": 8}
    network = saved(path)
    fingerprints = TrainingFingerprints(**{name: np.ones((2, size), np.uint8) for name, size in tables.items()})
    save_checkpoint(path, network, describe(network), fingerprints=fingerprints, half=half)
    before, description = safetensors.torch.load_file(path), read_description(path)
    replace_description(path, replace(description, thresholds=(0.5, 1.5, 2.5, 3.5)))
    after, changed = safetensors.torch.load_file(path), load_checkpoint(path)
    assert {name: tensor.dtype for name, tensor in after.items()} == {n: t.dtype for n, t in before.items()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert changed.description == replace(description, thresholds=(0.5, 1.5, 2.5, 3.5))
    assert (tmp_path / store.MODEL_JSON).read_text(encoding="utf-8") == changed.description.to_json()


def test_half_precision_is_half_as_large_and_grades_alike(tmp_path: Path) -> None:
    network = saved(tmp_path / "whole" / "model.safetensors").eval()
    saved(tmp_path / "half" / "model.safetensors", half=True)
    loaded = load_checkpoint(tmp_path / "half" / "model.safetensors").network
    for name, tensor in loaded.state_dict().items():
        original = network.state_dict()[name]
        assert tensor.dtype is original.dtype
        assert torch.allclose(tensor.double(), original.double(), rtol=1e-3, atol=1e-3), name
    choice = choose_device(DeviceName.CPU, Precision.FLOAT32)
    pixels = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8)
    difference = predict_probabilities(loaded, pixels, choice) - predict_probabilities(network, pixels, choice)
    assert np.abs(difference).max() < 1e-3
    sizes = [(tmp_path / kind / "model.safetensors").stat().st_size for kind in ("whole", "half")]
    assert sizes[1] < 0.52 * sizes[0]


def test_half_precision_loads_as_it_was_stored(tmp_path: Path) -> None:
    saved(tmp_path / "a" / "model.safetensors", half=True)
    once = load_checkpoint(tmp_path / "a" / "model.safetensors")
    save_checkpoint(tmp_path / "b" / "model.safetensors", once.network, once.description, half=True)
    twice = load_checkpoint(tmp_path / "b" / "model.safetensors")
    assert twice.description == once.description


def test_model_json_equals_the_header(tmp_path: Path) -> None:
    saved(tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        text = file.metadata()[METADATA_KEY]
    assert (tmp_path / store.MODEL_JSON).read_text(encoding="utf-8") == text
    described = json.loads(text)
    assert described["arch"] == "cnn"
    assert described["recipe"] == {"method": "clahe", "outline": "band", "size_px": 64, "version": RECIPE_VERSION}
    assert described["metrics"] == {"validation_kappa": None, "best_epoch": 2}


def test_equal_weights_have_equal_hashes(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        saved(tmp_path / name / "model.safetensors", seed=seed)
    a, b, c = (load_checkpoint(tmp_path / n / "model.safetensors").description.weights_sha256 for n in "abc")
    assert a == b != c


def test_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent.safetensors"):
        load_checkpoint(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.001, 0.5, 0.99999])
def test_a_truncated_file_is_an_error(tmp_path: Path, share: float) -> None:
    path = tmp_path / "model.safetensors"
    saved(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=r"not a whole safetensors file.*copy it again"):
        load_checkpoint(path)


def test_a_flipped_bit_is_never_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    saved(path)
    before, data = load_checkpoint(path).description, path.read_bytes()
    header_size = 8 + int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(0)
    places = [*rng.integers(0, header_size, 80), *rng.integers(header_size, len(data), 8), len(data) - 1]
    num_noticed = 0
    for place in map(int, places):
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            assert load_checkpoint(path).description == before  # a bit of a label that nothing rests on
        except CheckpointError:
            num_noticed += 1
    assert num_noticed > 0.9 * len(places)


def test_a_flipped_bit_in_a_weight_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    saved(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"not those that were saved.*copy the file again"):
        load_checkpoint(path)


def test_another_digit_in_the_description_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    saved(path, "test_efficientnet")
    data = path.read_bytes()
    assert data.count(b"0.485") == 1
    path.write_bytes(data.replace(b"0.485", b"0.585"))
    with pytest.raises(CheckpointError, match=r"description .* is not the one that was saved.*copy the file again"):
        load_checkpoint(path)


def test_a_description_without_hash_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    saved(path)
    with safe_open(path, framework="pt") as file:
        text = file.metadata()[METADATA_KEY]
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, {METADATA_KEY: text})
    with pytest.raises(CheckpointError, match=r"description .* is not the one that was saved.*copy the file again"):
        load_checkpoint(path)


def test_a_pickled_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    torch.save(build_network(network_spec("cnn", 64)).state_dict(), path)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_checkpoint(path)


def test_nothing_reads_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("pickle was read")

    saved(tmp_path / "model.safetensors", "test_resnet")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "pickled.safetensors")
    for module, names in ((pickle, ("load", "loads", "Unpickler")), (torch, ("load",))):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    load_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "pickled.safetensors")


def test_weights_of_others_are_an_error(tmp_path: Path) -> None:
    safetensors.torch.save_file({"weight": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match=r"no description by fundusgrade.*--init-weights"):
        load_checkpoint(tmp_path / "foreign.safetensors")


def test_another_format_version_is_an_error(tmp_path: Path) -> None:
    saved(tmp_path / "model.safetensors")
    rewrite(tmp_path / "model.safetensors", lambda described: described.update(format=2))
    with pytest.raises(CheckpointError, match=r"checkpoint format 2, expected 1.*install that one"):
        load_checkpoint(tmp_path / "model.safetensors")


def test_another_preprocessing_version_is_an_error(tmp_path: Path) -> None:
    saved(tmp_path / "model.safetensors")
    rewrite(tmp_path / "model.safetensors", lambda described: described["recipe"].update(version=99))
    with pytest.raises(CheckpointError, match=r"preprocessing version 99, this is 3.*train it again or install"):
        load_checkpoint(tmp_path / "model.safetensors")


def needed_keys() -> list[str]:
    """All that are written, but for those that earlier files of recipe 3 lack."""
    keys = json.loads(describe(build_network(network_spec("cnn", 64))).to_json()).keys()
    later = {"operating_point", "local_calibration", "checks"}
    assert later < keys
    return sorted(keys - later)


@pytest.mark.parametrize("key", needed_keys())
def test_a_missing_key_is_an_error_that_names_it(tmp_path: Path, key: str) -> None:
    saved(tmp_path / "model.safetensors")
    rewrite(tmp_path / "model.safetensors", lambda described: described.pop(key))
    with pytest.raises(CheckpointError, match=f"{key}.*copy the file again"):
        load_checkpoint(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"arch": "test_resnet", "timm_name": "test_resnet"},
        {"timm_name": "no_such_network"},
        {"size_px": "large"},
        {"recipe": {"method": "sepia", "outline": "band", "size_px": 64, "version": RECIPE_VERSION}},
        {"recipe": []},
        {"mean": 0.5},
        {"mean": [0.5, 0.5]},
    ],
)
def test_a_description_of_something_else_is_an_error(tmp_path: Path, change: dict[str, object]) -> None:
    saved(tmp_path / "model.safetensors")
    rewrite(tmp_path / "model.safetensors", lambda described: described.update(change))
    with pytest.raises(CheckpointError, match="copy the file again"):
        load_checkpoint(tmp_path / "model.safetensors")


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    networks = [saved(path, seed=seed) for seed in (0, 1)]
    hashes = set()
    enough = threading.Event()

    def keep_saving() -> None:
        while not enough.is_set():
            for network in networks:
                save_checkpoint(path, network, describe(network))

    writer = threading.Thread(target=keep_saving)
    writer.start()
    try:
        for _ in range(20):
            hashes.add(load_checkpoint(path).description.weights_sha256)
    finally:
        enough.set()
        writer.join()
    assert 1 <= len(hashes) <= 2
    assert sorted(file.name for file in tmp_path.iterdir()) == [store.MODEL_JSON, "model.safetensors"]
