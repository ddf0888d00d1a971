"""`fpc-deploy bench` on the tiny model: its report, its comparison, and what it refuses."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from fpc_deploy.cli import app
from runtime.bundle import Binding, Bundle
from runtime.errors import BundleError, EngineError, FpcError, GalleryError, GalleryMismatchError, SourceError
from runtime.gallery import Gallery

QUICK = ("--engine", "onnxruntime", "--repeats", "3", "--seconds", "0.02")


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def measured(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A report of two batch sizes, and what was printed."""
    path = tmp_path_factory.mktemp("bench") / "report.json"
    done = bench("--bundle", tiny_bundle.folder, "--gallery-size", 30, "--batch", "3,1", *QUICK, "--json", path)
    assert done.exit_code == 0, done.exception
    return path, done.output


def test_the_report(measured: tuple[Path, str], tiny_bundle: Bundle) -> None:
    report = json.loads(measured[0].read_text())
    assert (report["engine"], report["precision"], report["batch"], report["gallery_entries"]) == (
        "onnxruntime", "fp32", 3, 30,
    )  # fmt: skip
    assert [one["batch"] for one in report["other_batches"]] == [1]
    for one in (report, *report["other_batches"]):
        stages = one["stages"]
        assert list(stages) == ["preprocess", "encode", "search", "emd", "decode", "rank", "total"]
        for stage in stages.values():
            assert 0 < stage["p50_ms"] <= stage["p95_ms"] <= stage["p99_ms"]
            assert stage["ratio"] == pytest.approx(stage["p50_ms"] / stage["floor_ms"])
        assert stages["total"]["floor_ms"] == pytest.approx(
            sum(stage["floor_ms"] for name, stage in stages.items() if name != "total")
        )
        assert min(one["crops_per_s"], one["run_crops_per_s"], one["cold_start_s"], one["peak_rss_mb"]) > 0
        assert one["repeats"] == 3
    assert report["machine"]["cores"] >= 1
    assert report["versions"]["numpy"]
    assert report["model"]["hash"] == tiny_bundle.manifest.model.model_hash[:12]


def test_the_table(measured: tuple[Path, str]) -> None:
    for words in (
        "batch 3",
        "batch 1",
        "p99",
        "floor",
        "encode",
        "crops a second",
        "MB resident",
        "30 gallery entries",
    ):
        assert words in measured[1]


def test_a_report_compared_with_itself(measured: tuple[Path, str]) -> None:
    done = bench("--compare", measured[0], measured[0])
    assert done.exit_code == 0, done.exception
    assert done.output.count("encode") == 2
    assert "differs" not in done.output


def test_a_report_of_another_machine(measured: tuple[Path, str], tmp_path: Path) -> None:
    other = json.loads(measured[0].read_text())
    for one in (other, *other["other_batches"]):
        one["engine"], one["machine"]["cpu"] = "openvino", "another"
        one["stages"]["encode"]["p50_ms"] /= 4
    (tmp_path / "other.json").write_text(json.dumps(other))
    done = bench("--compare", measured[0], tmp_path / "other.json")
    assert done.exit_code == 0, done.exception
    encode = next(line for line in done.output.splitlines() if "encode" in line)
    assert encode.split()[-2] == "4"
    assert "differs: engine: onnxruntime against openvino" in done.output
    assert "against another" in done.output


def test_pictures_and_a_gallery_of_ones_own_against_another_bundle(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "people").mkdir()
    for number in range(2):
        Image.new("RGB", (40, 80), (90 * number, 60, 30)).save(tmp_path / "people" / f"{number}.png")
    (tmp_path / "people" / "broken.jpg").write_bytes(b"\xff\xd8")
    from runtime.gallery.synthetic import synthetic_gallery

    synthetic_gallery(tmp_path / "gallery", tiny_bundle, 12, tokens="int8")
    done = bench(
        "--bundle", tiny_bundle.folder, "--gallery", tmp_path / "gallery", "--images", tmp_path / "people",
        "--batch", "2", *QUICK, "--against", tiny_bundle.folder, "--json", tmp_path / "a.json",
    )  # fmt: skip
    assert done.exit_code == 0, done.exception
    report = json.loads((tmp_path / "a.json").read_text())
    assert "other_batches" not in report
    assert (report["gallery_entries"], report["tokens"], report["batch"]) == (12, "int8", 2)
    assert report["crops"] == "2 pictures of people, 80 pixels high"
    assert "fp32 is " in done.output


@pytest.fixture(scope="module")
def wrong(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of things that cannot be measured."""
    folder = tmp_path_factory.mktemp("wrong")
    facts = tiny_bundle.manifest.model
    Gallery.create(folder / "empty", tiny_bundle.binding, facts.embed_dim, facts.patches).close()
    other = Binding(model_hash="b" * 64, precision="fp32", preprocessing=tiny_bundle.binding.preprocessing)
    Gallery.create(folder / "foreign", other, facts.embed_dim, facts.patches).close()
    shutil.copytree(tiny_bundle.folder, folder / "no-decoder")
    manifest = json.loads((folder / "no-decoder" / "bundle.json").read_text())
    del manifest["files"]["decoder.onnx"]
    (folder / "no-decoder" / "bundle.json").write_text(json.dumps(manifest | {"decoder_tokens": None}))
    (folder / "no-images").mkdir()
    (folder / "no-report.json").write_text("{}")
    return folder


BUNDLE = ("--bundle", "{bundle}", "--engine", "onnxruntime")


@pytest.mark.parametrize(
    ("arguments", "error", "complaint"),
    [
        pytest.param((), FpcError, "give --bundle BUNDLE, or --compare", id="nothing"),
        pytest.param(("--bundle", "{wrong}/no-images"), BundleError, "is not a bundle", id="no bundle"),
        pytest.param(("--bundle", "{wrong}/no-decoder"), BundleError, "has no decoder", id="no decoder"),
        pytest.param((*BUNDLE, "--gallery", "{wrong}/empty"), GalleryError, "is empty", id="empty gallery"),
        pytest.param((*BUNDLE, "--gallery", "{wrong}/foreign"), GalleryMismatchError, "another bundle", id="foreign"),
        pytest.param((*BUNDLE, "--gallery", "{wrong}/no-images"), GalleryError, "gallery", id="no gallery"),
        pytest.param((*BUNDLE, "--gallery", "x", "--tokens", "int8"), FpcError, "made-up gallery", id="both galleries"),
        pytest.param((*BUNDLE, "--gallery-size", "0"), GalleryError, "1 or more", id="gallery of none"),
        pytest.param(
            (*BUNDLE, "--gallery-size", "10000000000"), GalleryError, "left: give a smaller", id="huge gallery"
        ),
        pytest.param((*BUNDLE, "--tokens", "zip"), GalleryError, "no token store 'zip'", id="token store"),
        pytest.param((*BUNDLE, "--batch", "0"), FpcError, "give --batch 1 or more", id="batch of none"),
        pytest.param((*BUNDLE, "--batch", "1,1"), FpcError, "twice", id="batch twice"),
        pytest.param((*BUNDLE, "--batch", ","), FpcError, "give --batch 1", id="no batch"),
        pytest.param((*BUNDLE, "--batch", "many"), FpcError, "whole numbers", id="batch of words"),
        pytest.param((*BUNDLE, "--seconds", "0"), FpcError, "more than 0", id="no time"),
        pytest.param((*BUNDLE, "--images", "{wrong}/no-images"), SourceError, "holds no images", id="no images"),
        pytest.param((*BUNDLE, "--engine", "abacus"), EngineError, "no engine 'abacus'", id="no such engine"),
        pytest.param((*BUNDLE, "--json", "{wrong}"), FpcError, "is a folder", id="json folder"),
        pytest.param((*BUNDLE, "--compare", "a", "b"), FpcError, "leave --bundle out", id="both"),
        pytest.param(("--compare", "{wrong}/no-report.json", "b"), FpcError, "not a report", id="no report"),
        pytest.param(("--compare", "{wrong}/a.json", "b"), FpcError, "cannot be read", id="no file"),
    ],
)
def test_what_cannot_be_measured(
    arguments: Sequence[str], error: type[FpcError], complaint: str, wrong: Path, tiny_bundle: Bundle
) -> None:
    given = [one.format(bundle=tiny_bundle.folder, wrong=wrong) for one in arguments]
    done = bench(*given)
    assert type(done.exception) is error, done.output
    assert complaint in str(done.exception)


def test_an_engine_that_cannot_run_here(tiny_bundle: Bundle) -> None:
    done = bench("--bundle", tiny_bundle.folder, "--gallery-size", 3, "--engine", "onnxruntime-cuda", "--batch", "1")
    assert isinstance(done.exception, FpcError)
    assert "onnxruntime" in str(done.exception).lower()
