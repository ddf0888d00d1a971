"""The EMD over stored tokens: compact against float, many queries against one, and who opens what."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from benchmarks.matmul_graphs import rows_product
from runtime.bundle import Bundle, MatchSettings
from runtime.emd import ROWS_PRODUCT, CompactEmd, FloatEmd, code_query
from runtime.encoder import Features
from runtime.gallery.codecs import TokenCodec, make_codec
from runtime.gallery.protocol import StoredTokens
from runtime.gallery.synthetic import SyntheticPeople, synthetic_gallery, synthetic_people
from runtime.matching import Consolidator, Matcher

KEPT = 7
CANDIDATES = 11


@pytest.fixture(scope="module")
def people(tiny_bundle: Bundle) -> SyntheticPeople:
    return synthetic_people(tiny_bundle, "svd-32")


def stored(people: SyntheticPeople, images: NDArray[np.int64], codec: TokenCodec) -> StoredTokens:
    """Images of the people in another codec."""
    ours = people.codec
    records = [people.records(int(image), 1)[0, ...] for image in images]
    cls = np.concatenate([people.vectors(int(image), 1)[0] for image in images])
    recoded = codec.encode(ours.decode(records))
    return StoredTokens(cls, [recoded[row, ...] for row in range(len(recoded))], np.arange(len(recoded)), codec)


def candidates_of(count: int) -> NDArray[np.int64]:
    return np.concatenate([(np.arange(CANDIDATES) * 13 + 20 * row) % 90 for row in range(count)])


def test_compact_distances_are_those_of_the_float_matcher(tiny_bundle: Bundle, people: SyntheticPeople) -> None:
    query = people.queries(np.array([0, 20, 45]), KEPT)
    given = stored(people, candidates_of(3), people.codec)
    compact = CompactEmd(tiny_bundle, 2).distances(query, given)
    plain = FloatEmd(tiny_bundle, "onnxruntime", 2).distances(query, given)
    assert compact.shape == plain.shape == (3, CANDIDATES)
    assert np.ptp(plain) > 0.5
    # 32 coordinates in 63 steps; at 384 coordinates rounding is a tenth of this
    np.testing.assert_allclose(compact, plain, atol=0.02)


@pytest.mark.parametrize("kind", [CompactEmd, FloatEmd])
def test_batches_and_threads_change_nothing(tiny_bundle: Bundle, people: SyntheticPeople, kind: type) -> None:
    engine = ("onnxruntime",) if kind is FloatEmd else ()
    query = people.queries(np.array([0, 20, 45]), KEPT)
    given = stored(people, candidates_of(3), people.codec)
    together = kind(tiny_bundle, *engine, 3).distances(query, given)
    for row in range(3):
        one = Features(*(getattr(query, name)[row : row + 1] for name in ("cls", "patches", "descriptor")))
        which = np.arange(row * CANDIDATES, (row + 1) * CANDIDATES)
        shuffled = np.random.default_rng(row).permutation(which)
        alone = kind(tiny_bundle, *engine, 1).distances(one, given.take(shuffled))[0]
        np.testing.assert_allclose(alone, together[row, shuffled - which[0]], atol=1e-6)


def test_a_query_that_looks_away_has_no_nan(tiny_bundle: Bundle, people: SyntheticPeople) -> None:
    """No patch agrees with the other side's [cls]: one side has no weight at all."""
    given = stored(people, candidates_of(1), people.codec)
    toward = people.queries(np.array([0]), KEPT)
    away = Features(-given.cls[:1], np.repeat(-given.cls[:1, None], KEPT, 1), toward.descriptor)
    for emd in (CompactEmd(tiny_bundle, 1), FloatEmd(tiny_bundle, "onnxruntime", 1)):
        assert np.isfinite(emd.distances(away, given)).all()


def test_the_product_of_rows_is_what_its_writer_makes() -> None:
    assert onnx.load(ROWS_PRODUCT) == rows_product()


def test_query_codes_do_not_overflow_16_bits() -> None:
    """A processor without VNNI adds two products of bytes in 16 bits."""
    coded = code_query(np.eye(16, dtype=np.float32), np.ones(16, np.float32))
    assert 2 * 255 * int(np.abs(coded.codes).max()) < 2**15
    assert np.abs(coded.codes).max() == 63


def test_tokens_that_nearly_all_point_one_way_are_still_told_apart(tiny_bundle: Bundle) -> None:
    """Seen in a trained model: a mean direction of length 0.998, and EMDs that differ by 0.0005."""
    rng = np.random.default_rng(0)
    common = rng.standard_normal(64)
    common /= np.linalg.norm(common)
    tokens = (common + 0.06 / 8 * rng.standard_normal((21, 10, 64))).astype(np.float32)
    codec = make_codec("int8", 64)
    records = codec.encode(tokens[1:])
    given = StoredTokens(tokens[1:].mean(axis=1), [records[row, ...] for row in range(20)], np.arange(20), codec)
    query = Features(tokens[:1].mean(axis=1), tokens[:1, :KEPT], tokens[:1].mean(axis=1))
    compact = CompactEmd(tiny_bundle, 1).distances(query, given)[0]
    plain = FloatEmd(tiny_bundle, "onnxruntime", 1).distances(query, given)[0]
    assert plain.std() < 2e-4
    # an error that all candidates share changes no order
    assert np.abs((compact - compact.mean()) - (plain - plain.mean())).max() < 0.05 * plain.std()


@pytest.mark.parametrize("tokens", ["float16", "int8", "svd-32"])
def test_a_stored_gallery_is_matched_and_decoded(tiny_bundle: Bundle, tmp_path: Path, tokens: str) -> None:
    people = synthetic_gallery(tmp_path / "g", tiny_bundle, 60, tokens=tokens)
    from runtime.gallery import Gallery

    query = people.queries(np.array([7, 33]), KEPT)
    with Gallery.open(tmp_path / "g", tiny_bundle.binding) as gallery:
        found = gallery.search(query.cls, 30)
        settings = MatchSettings(alpha=0.5, neighbours=5)
        near = Matcher(tiny_bundle, settings, gallery=gallery).refine(query, found.entries, found.cosine, gallery)
        rebuilt = Consolidator(tiny_bundle, gallery=gallery).consolidate(query, near)
        plain = Consolidator(tiny_bundle, "onnxruntime")
        codec_free = StoredTokens.of(near.tokens.cls, near.tokens.patches(range(10)))
        expected = plain.consolidate(query, type(near)(near.entries, near.distance, codec_free))
    assert near.entries.shape == (2, 5)
    assert (np.diff(near.distance, axis=1) >= 0).all()
    people_found = (near.entries - 1) // 20
    assert (people_found == np.array([[0], [1]])).mean() > 0.8
    np.testing.assert_allclose(rebuilt, expected, atol=5e-3 * np.abs(expected).max())


@pytest.mark.parametrize("age", ["without", "of another version"])
def test_a_bundle_without_compact_graphs_of_now_matches_a_compact_gallery_all_the_same(
    tiny_bundle: Bundle, people: SyntheticPeople, caplog: pytest.LogCaptureFixture, age: str
) -> None:
    files = {name: record for name, record in tiny_bundle.manifest.files.items() if "compact" not in name}
    change: dict[str, object] = {"files": files} if age == "without" else {"compact_version": 1}
    old = Bundle(tiny_bundle.folder, tiny_bundle.manifest.model_copy(update=change))
    query, given = people.queries(np.array([0]), KEPT), stored(people, candidates_of(1), people.codec)

    class Reader:
        def stored(self, entries: NDArray[np.int64]) -> StoredTokens:
            return given.take(entries)

    entries, cosine = np.arange(CANDIDATES)[None], np.linspace(0.9, 0.5, CANDIDATES, dtype=np.float32)[None]
    found = [
        Matcher(bundle, MatchSettings()).refine(query, entries, cosine, Reader())  # type: ignore[arg-type]
        for bundle in (old, old, tiny_bundle)
    ]
    assert caplog.text.count("export it again") == 1
    np.testing.assert_allclose(found[0].distance, found[-1].distance, atol=0.02)
