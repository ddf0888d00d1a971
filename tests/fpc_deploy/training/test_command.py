"""`fpc-deploy train` from the command line, and its checkpoint through export."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from export.write import ExportOptions, export_bundle
from fpc_deploy.cli import app
from runtime.errors import FpcError, SourceError

OPTIONS = shlex.split(
    "--embed-dim 32 --depth 4 --heads 2 --image-size 32x16 --patch-size 8 --stride 8 --prune-at 1,2 --batch-size 8 "
    "--backbone vit_tiny_patch16_224 --optimizer adamw --learning-rate 1e-3 --encoder-epochs 1 --decoder-epochs 1 "
    "--neighbours 3"
)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["train", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_its_checkpoint_goes_straight_into_export(dataset: Path, tmp_path: Path) -> None:
    answer = run(str(dataset), "--out", str(tmp_path / "run"), *OPTIONS)

    assert "model.pth" in answer
    bundle = export_bundle(tmp_path / "run" / "model.pth", tmp_path / "bundle", ExportOptions(prune_at=(1, 2)))
    assert bundle.has("decoder")
    assert bundle.manifest.cameras.trained == 2


def test_it_resumes(dataset: Path, tmp_path: Path) -> None:
    run(str(dataset), "--out", str(tmp_path / "run"), "--phase", "encoder", *OPTIONS)

    run(str(dataset), "--out", str(tmp_path / "run"), "--phase", "both", "--resume", *OPTIONS)


def test_a_folder_without_training_images(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="bounding_box_train"):
        run(str(tmp_path), "--out", str(tmp_path / "run"), *OPTIONS)


def test_the_model_of_a_start_is_not_chosen_again(dataset: Path, tmp_path: Path) -> None:
    given = ["--start", "x.pth", "--pretrained", "--depth", "5", "--image-size", "32x16", "--heads", "0"]
    with pytest.raises(FpcError, match="leave --pretrained, --depth, --heads, --image-size out"):
        run(str(dataset), "--out", str(tmp_path / "run"), *given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [("--image-size 32", "HEIGHTxWIDTH"), ("--prune-at 1;2", "whole numbers"), ("--prune-at 9", "0 to 2")],
)
def test_options_that_do_not_fit(dataset: Path, tmp_path: Path, options: str, message: str) -> None:
    with pytest.raises(FpcError, match=re.escape(message)):
        run(str(dataset), "--out", str(tmp_path / "run"), *OPTIONS, *options.split())
