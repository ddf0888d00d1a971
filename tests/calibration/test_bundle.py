"""`calibrate` from folder to bundle: what it writes, and when it writes nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from calibration.bundle import CalibrateOptions, calibrate_bundle
from calibration.derive import derive_bundle
from calibration.gate import INT8_BOUNDS, Verdict, judge
from fpc_deploy.cli import app, main
from runtime.bundle import Bundle, sha256_of
from runtime.errors import BundleError, ParityError
from runtime.speed import STAND_IN
from tests.calibration.conftest import MakeImages, smooth
from tests.precisions import make_int8

OPTIONS = CalibrateOptions(method="minmax", count=16, allow_loss=True)


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_int8_bundle_is_whole_and_says_how_it_was_made(
    tiny_bundle: Bundle, make_images: MakeImages, tmp_path: Path
) -> None:
    lines: list[str] = []
    bundle, verdict, data = calibrate_bundle(
        tiny_bundle, make_images(smooth(40, 1)), tmp_path / "int8", OPTIONS, lines.append
    )
    assert bundle.manifest.precision == "int8"
    assert bundle.binding.differences(tiny_bundle.binding) == ["precision (int8 against fp32)"]
    for name, record in bundle.manifest.files.items():
        assert sha256_of(bundle.folder / name) == record.sha256
    before = tiny_bundle.manifest.files
    changed = {name for name, record in bundle.manifest.files.items() if record != before.get(name)}
    assert changed == {"query_encoder.onnx", "gallery_encoder.onnx", STAND_IN}
    assert not {row.graph for row in bundle.manifest.parity} & {"query_encoder", "gallery_encoder"}
    assert f"int8: ranges by minmax from {len(data.crops)} crops, seed 0" in bundle.manifest.notes
    assert verdict.summary() in bundle.manifest.notes
    assert verdict.agreement.queries == 2 * len(data.held_out)
    assert bundle.manifest.descriptor_cosine == verdict.agreement.descriptor_cosine < 1
    assert set(verdict.agreement.kept) == {"block 1", "block 2"}
    assert listing(tmp_path) == ["images", "int8"]
    assert any(line.startswith("calibrating query_encoder") for line in lines)


def damaged_judge(reference: Bundle, candidate: Bundle) -> Verdict:
    """Judge by real figures and a bound that no quantised graph can keep."""
    crops = smooth(24, 2)
    found = judge(reference, candidate, crops[:6], crops[6:])
    return replace(found, failures=(f"descriptor cosine {found.agreement.descriptor_cosine:.4f}, at least 1",))


@pytest.mark.parametrize("allow_loss", [False, True])
def test_beyond_the_bounds_nothing_is_written_unless_allowed(
    tiny_bundle: Bundle, tmp_path: Path, allow_loss: bool
) -> None:
    int8 = make_int8(tiny_bundle, tmp_path / "source")

    def convert(graph: str, _: Path, after: Path) -> None:
        after.write_bytes((int8.folder / f"{graph}.onnx").read_bytes())

    out = tmp_path / "out"
    if not allow_loss:
        with pytest.raises(ParityError, match=r"descriptor cosine .* no bundle was written.*--allow-loss"):
            derive_bundle(tiny_bundle, out, "int8", convert, damaged_judge)
        assert listing(tmp_path) == ["source"]
        return
    bundle, _ = derive_bundle(tiny_bundle, out, "int8", convert, damaged_judge, allow_loss=True)
    assert any(note.startswith("WRITTEN IN SPITE OF A LOSS") for note in bundle.manifest.notes)


@pytest.mark.parametrize(
    ("count", "phrase"),
    [
        (5, "has 5 usable images of 5 (0 unreadable, 0 blank or repeated): at least 16"),
        (0, "holds no images"),
    ],
)
def test_a_short_or_empty_set_ends_the_command_and_writes_nothing(
    tiny_bundle: Bundle,
    make_images: MakeImages,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    phrase: str,
) -> None:
    folder = make_images(smooth(max(count, 1), 0)[:count])
    line = [
        "fpc-deploy",
        "calibrate",
        str(tiny_bundle.folder),
        "--images",
        str(folder),
        "--out",
        str(tmp_path / "int8"),
    ]
    monkeypatch.setattr("sys.argv", line)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert phrase in " ".join(capsys.readouterr().err.split())
    assert listing(tmp_path) == ["images"]


def test_noise_is_warned_about_on_the_way_and_in_the_bundle(
    tiny_bundle: Bundle, make_images: MakeImages, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 64, 32, 3), dtype=np.uint8)
    lines: list[str] = []
    bundle, _, _ = calibrate_bundle(tiny_bundle, make_images(noise), tmp_path / "int8", OPTIONS, lines.append)
    assert any("look like noise" in line for line in lines)
    assert any("look like noise" in note for note in bundle.manifest.notes)


def test_only_float32_bundles_are_calibrated(tiny_bundle: Bundle, make_images: MakeImages, tmp_path: Path) -> None:
    int8 = make_int8(tiny_bundle, tmp_path / "int8")
    with pytest.raises(BundleError, match="is int8 already: start from the fp32 bundle"):
        calibrate_bundle(int8, make_images(smooth(20, 0)), tmp_path / "twice", OPTIONS)


def test_an_existing_bundle_is_kept_unless_overwritten(
    tiny_bundle: Bundle, make_images: MakeImages, tmp_path: Path
) -> None:
    images = make_images(smooth(20, 0))
    out = make_int8(tiny_bundle, tmp_path / "int8").folder
    with pytest.raises(BundleError, match="exists: give another folder, or --overwrite"):
        calibrate_bundle(tiny_bundle, images, out, OPTIONS)
    with pytest.raises(BundleError, match="is the bundle to be converted"):
        calibrate_bundle(tiny_bundle, images, tiny_bundle.folder, replace(OPTIONS, overwrite=True))
    assert calibrate_bundle(tiny_bundle, images, out, replace(OPTIONS, overwrite=True))[0].folder == out
    assert listing(tmp_path) == ["images", "int8"]


def test_bounds_are_the_stated_ones() -> None:
    assert INT8_BOUNDS.top == 0.9


def test_the_command_ends_with_figures_and_speed(tiny_bundle: Bundle, make_images: MakeImages, tmp_path: Path) -> None:
    images = make_images(smooth(40, 1))
    arguments = [str(tiny_bundle.folder), "--images", str(images), "--out", str(tmp_path / "int8"), "--allow-loss"]
    result = CliRunner().invoke(app, ["calibrate", *arguments, "--count", "16", "--method", "minmax"])
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "descriptor cosine" in text
    assert " ms against " in text
