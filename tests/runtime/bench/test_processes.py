import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.bench.pictures import pictures_of
from runtime.bench.processes import run_process
from runtime.bench.subject import Task, groups
from runtime.bundle import Bundle
from runtime.errors import BundleError, FpcError, GalleryError, SourceError
from runtime.gallery.synthetic import synthetic_gallery


def task(bundle: Path, gallery: Path, batch: int = 2) -> Task:
    pictures = tuple(map(str, pictures_of(None).paths))
    return Task(str(bundle), str(gallery), pictures, batch, "onnxruntime", 1, repeats=4, seconds=0.1)


def test_a_process_says_what_it_took(tiny_bundle: Bundle, tmp_path: Path) -> None:
    synthetic_gallery(tmp_path / "gallery", tiny_bundle, 5)
    taken = run_process(task(tiny_bundle.folder, tmp_path / "gallery"))
    assert len(taken.batches) == 4
    for batch in taken.batches:
        stages = {name: ms for name, ms in batch.items() if name != "total"}
        assert stages.keys() >= {"preprocess", "encode", "search", "emd", "decode", "rank"}
        assert 0 < max(stages.values()) < batch["total"]
    assert taken.cold_start_s > 0
    assert taken.run_crops_per_s is None
    assert 20 < taken.peak_rss_mb < 2000
    assert ["10 neighbours were asked for" in warning for warning in taken.warnings] == [True]


@pytest.mark.parametrize(
    ("bundle", "gallery", "error"),
    [
        pytest.param("nowhere", "gallery", BundleError, id="bundle"),
        pytest.param(None, "nowhere", GalleryError, id="gallery"),
    ],
)
def test_its_errors_come_through(
    tiny_bundle: Bundle, tmp_path: Path, bundle: str | None, gallery: str, error: type[Exception]
) -> None:
    folder = tiny_bundle.folder if bundle is None else tmp_path / bundle
    with pytest.raises(error, match="nowhere is not a"):
        run_process(task(folder, tmp_path / gallery))


def test_pictures_in_turn() -> None:
    batches = groups([Path("a"), Path("b"), Path("c")], 2)
    assert [[path.name for path in next(batches)] for _ in range(3)] == [["a", "b"], ["c", "a"], ["b", "c"]]


def test_pictures_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no images"):
        pictures_of(tmp_path)
    rendered = pictures_of(None)
    assert len(rendered.paths) >= 16
    assert "rendered crops" in rendered.described
    least = sum(path.stat().st_size for path in rendered.paths) / len(rendered.paths)
    assert rendered.bytes_each > least


def test_nothing_heavy_is_imported() -> None:
    heavy = {"torch", "onnx", "typer", "rich", "onnxruntime"}
    code = f"import sys, runtime.bench.subject\nprint({heavy!r} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_process_that_dies(tiny_bundle: Bundle, tmp_path: Path) -> None:
    synthetic_gallery(tmp_path / "gallery", tiny_bundle, 5)
    lost = replace(task(tiny_bundle.folder, tmp_path / "gallery"), batch="many")  # type: ignore[arg-type]
    with pytest.raises(FpcError, match=r"ended before it was done: \w+Error"):
        run_process(lost)
