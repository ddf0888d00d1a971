import logging

import pytest

from fpc_deploy.evaluation.plan import ablated, answerable, base_configuration
from fpc_deploy.evaluation.stages import Stages, all_stages, check_stages
from runtime.bundle import Bundle
from runtime.errors import FpcError


@pytest.fixture
def without_decoder(tiny_bundle: Bundle) -> Bundle:
    """The tiny bundle as it is of a TransReID checkpoint."""
    files = {name: record for name, record in tiny_bundle.manifest.files.items() if name != "decoder.onnx"}
    manifest = tiny_bundle.manifest.model_copy(update={"files": files, "decoder_tokens": None})
    return Bundle(tiny_bundle.folder, manifest)


@pytest.mark.parametrize(
    ("text", "expected", "name"),
    [
        ("SMC", Stages(prune=True, match=True, consolidate=True), "S+M+C"),
        ("cs", Stages(prune=True, match=False, consolidate=True), "S+C"),
        ("S+M", Stages(prune=True, match=True, consolidate=False), "S+M"),
        ("none", Stages(prune=False, match=False, consolidate=False), "none"),
    ],
)
def test_letters(text: str, expected: Stages, name: str) -> None:
    assert Stages.parse(text) == expected
    assert str(expected) == name


@pytest.mark.parametrize("text", ["X", "SS", "S,M"])
def test_letters_that_are_none(text: str) -> None:
    with pytest.raises(FpcError, match=r"some of the letters S, M and C, or none"):
        Stages.parse(text)


def test_a_bundle_without_decoder(without_decoder: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    assert str(all_stages(without_decoder)) == "S+M"
    with pytest.raises(FpcError, match="has no decoder"):
        check_stages(Stages.parse("SC"), without_decoder)
    with caplog.at_level(logging.WARNING):
        rows = ablated(base_configuration(without_decoder), without_decoder, reranked=False)
    assert [str(row.stages) for row in rows] == ["none", "S", "S+M"]
    assert "stages S+M+C are left out" in caplog.text


@pytest.mark.parametrize("letters", ["M", "MC"])
def test_an_unpruned_bundle_matches_without_s(tiny_bundle: Bundle, letters: str) -> None:
    manifest = tiny_bundle.manifest
    schedule = manifest.keep_schedule.model_copy(update={"keep_rate": 1.0, "blocks": (), "kept": ()})
    check_stages(
        Stages.parse(letters), Bundle(tiny_bundle.folder, manifest.model_copy(update={"keep_schedule": schedule}))
    )


def test_a_decoder_that_reads_queries_needs_pruned_ones(tiny_bundle: Bundle) -> None:
    check_stages(Stages.parse("C"), tiny_bundle)
    reading = tiny_bundle.manifest.model_copy(update={"decoder_tokens": "query+gallery"})
    with pytest.raises(FpcError, match="take the patches of a pruned query"):
        check_stages(Stages.parse("C"), Bundle(tiny_bundle.folder, reading))


def test_without_patches_equal_rows_are_run_once(tiny_bundle: Bundle) -> None:
    chosen = ablated(base_configuration(tiny_bundle), tiny_bundle, reranked=False)
    assert [str(row.stages) for row in answerable(chosen, "cls")] == ["none", "S", "S+C"]
    assert answerable(chosen, "full") == chosen
