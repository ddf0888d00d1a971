"""Floors against figures worked out by hand for ViT-B at 256x128 (design, section 4)."""

from pathlib import Path

import numpy as np
import pytest

from runtime.bench.floors import Searched, Work, work_of
from runtime.bench.measure import figures
from runtime.bench.rates import Rates
from runtime.bundle import (
    Bundle,
    Cameras,
    FileRecord,
    KeepSchedule,
    Manifest,
    MatchSettings,
    ModelFacts,
    Preprocessing,
)
from runtime.gallery.codecs import make_codec
from runtime.gallery.records import Layout
from runtime.pipeline import MAX_BATCH

RATES = Rates(encoders=1.2e12, others=1e12, codes=2e12, numpy=1e11, bandwidth=1e10)


def vit_b(**changes: object) -> Bundle:
    facts = ModelFacts(
        model_hash="a" * 64, source_format="fpc", backbone="vit_base", embed_dim=768, depth=12, heads=12,
        patch_size=16, stride=11, grid_rows=22, grid_columns=11,
    )  # fmt: skip
    files = {f"{name}.onnx": FileRecord(bytes=size, sha256="0" * 64) for name, size in SIZES.items()}
    manifest = Manifest(
        schema_version=1,
        created_by="a test",
        model=facts,
        preprocessing=Preprocessing(height=256, width=128),
        keep_schedule=KeepSchedule(keep_rate=0.8, blocks=(3, 6, 9), kept=(194, 156, 125)),
        cameras=Cameras(trained=8),
        decoder_tokens="gallery",
        multiply_adds_g={"query_encoder": 15.6},
        files=files,
    )
    return Bundle(Path("nowhere"), manifest.model_copy(update=changes))


SIZES = {"query_encoder": 344_000_000, "matcher": 9_000, "decoder": 28_000_000}
FULL = Searched(17_661, Layout(768, 242, 1024), index_from=10_000)


def test_the_encoder_is_bound_by_products_or_by_its_weights() -> None:
    one, eight = (work_of(vit_b(), FULL, batch, 0)["encode"] for batch in (1, 8))
    assert one.floor_ms(RATES) == pytest.approx(34.4)  # 344 MB at 10 GB/s
    assert eight.floor_ms(RATES) == pytest.approx(13.0)  # 15.6 G at 1.2 T/s
    narrow = work_of(vit_b(), FULL, 1, 0, bytes_a_weight=2)["encode"]
    assert narrow.floor_ms(RATES) == pytest.approx(17.2)


def test_emd_reads_the_tokens_of_every_candidate() -> None:
    work = work_of(vit_b(), FULL, 1, 0)["emd"]
    assert work.bytes == 100 * (242 * 768 * 2 + 768 * 4)
    assert work.multiply_adds == pytest.approx(100 * 242 * 126 * 768, rel=0.02)
    assert work.floor_ms(RATES) == pytest.approx(1e3 * work.bytes / RATES.bandwidth)


def test_emd_on_compact_tokens() -> None:
    tokens = np.random.default_rng(0).standard_normal((4, 242, 768)).astype(np.float32)
    layout = Layout(768, 242, 1024, make_codec("svd-96", 768, [tokens]))
    work = work_of(vit_b(), Searched(17_661, layout, 10_000, as_bytes=True), 1, 0)
    assert work["emd"].bytes == 100 * (242 * (96 + 8) + 768 * 4)
    assert work["emd"].multiply_adds == 100 * 242 * (126 * 96 + 10 * 125)
    assert work["emd"].floor_ms(Rates(None, None, 1e9, 1, 1e12)) == pytest.approx(work["emd"].multiply_adds / 1e6)
    assert work["decode"].multiply_adds == 2 * 12 * 10 * 242 * 96 + 12 * 768**2
    unpacked = work_of(vit_b(), Searched(17_661, layout, 10_000), 1, 0)["emd"]
    assert unpacked.bytes == work["emd"].bytes
    assert unpacked.multiply_adds == 100 * 242 * (126 * 768 + 10 * 125)


def test_without_emd_only_the_neighbours_are_read() -> None:
    plain = work_of(vit_b(matching=MatchSettings(alpha=0)), FULL, 1, 0)["emd"]
    cls_only = work_of(vit_b(), Searched(17_661, Layout(768, 0, 1024), 10_000), 1, 0)["emd"]
    assert (plain.multiply_adds, plain.bytes) == (0, 10 * (242 * 768 * 2 + 768 * 4))
    assert (cls_only.multiply_adds, cls_only.bytes) == (0, 10 * 768 * 4)


def test_the_decoder_reads_its_neighbours_and_its_weights() -> None:
    work = work_of(vit_b(), FULL, 1, 0)["decode"]
    assert work.bytes == 28_000_000 + 10 * 242 * 768 * 2
    assert work.multiply_adds == 2 * 12 * 10 * 242 * 768 + 12 * 768**2
    with_query = work_of(vit_b(decoder_tokens="query+gallery"), FULL, 1, 0)["decode"]
    assert with_query.multiply_adds - work.multiply_adds == 2 * 12 * 125 * 768


def test_a_search_reads_all_vectors_or_those_that_hnsw_gives_out() -> None:
    small = Searched(5_000, FULL.layout, 10_000)
    assert work_of(vit_b(), small, 8, 0)["search"] == Work(5_000 * 768, 5_000 * 768 * 4 / 8)
    assert work_of(vit_b(), small, 100, 0)["search"].bytes == 5_000 * 768 * 4 / MAX_BATCH  # the pipeline splits
    assert work_of(vit_b(), FULL, 8, 0)["search"] == Work(100 * 768, 100 * 768 * 4)
    assert work_of(vit_b(), FULL, 8, 0)["rank"] == Work(768, 768 * 4)


def test_a_second_pass_decodes_and_ranks_again() -> None:
    once, twice = (work_of(vit_b(matching=MatchSettings(passes=passes)), FULL, 8, 0) for passes in (1, 2))
    assert twice["decode"] == Work(2 * once["decode"].multiply_adds, 2 * once["decode"].bytes, "others")
    assert twice["rank"] == Work(11 * 768, 11 * 768 * 4)
    assert [name for name in once if once[name] != twice[name]] == ["decode", "rank"]


def test_a_gallery_smaller_than_what_is_asked_for() -> None:
    work = work_of(vit_b(), Searched(3, FULL.layout, 10_000), 1, 0)
    assert work["emd"].bytes == 3 * (242 * 768 * 2 + 768 * 4)
    assert work["decode"].multiply_adds == 2 * 12 * 3 * 242 * 768 + 12 * 768**2


def test_figures_are_of_one_crop_and_total_is_the_sum_of_floors() -> None:
    work = work_of(vit_b(), FULL, 2, 1e6)
    batches = [{name: float(ms) for name in (*work, "total")} for ms in range(1, 102)]
    found = figures(batches, 2, RATES, work)
    assert (found["emd"].p50_ms, found["emd"].p95_ms, found["emd"].p99_ms) == (25.5, 48.0, 50.0)
    assert found["preprocess"].floor_ms == pytest.approx(0.1)
    floors = [one.floor_ms for name, one in found.items() if name != "total"]
    assert found["total"].floor_ms == pytest.approx(sum(floor for floor in floors if floor))
    assert found["total"].ratio == pytest.approx(25.5 / sum(floor for floor in floors if floor))


def test_a_rate_that_is_unknown_leaves_floors_unknown() -> None:
    work = work_of(vit_b(), FULL, 1, 0)
    found = figures([{"encode": 2.0, "total": 3.0}], 1, Rates(None, None, None, 1e11, 1e10), work)
    assert (found["encode"].floor_ms, found["encode"].ratio) == (None, None)
    assert (found["total"].floor_ms, found["total"].ratio) == (None, None)
    assert found["search"].floor_ms is not None
