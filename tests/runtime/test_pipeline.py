"""Crops in, identities out, on a real bundle and a real gallery."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.bundle import Bundle, MatchSettings
from runtime.encoder import Encoder
from runtime.errors import BundleError, EngineError, GalleryError
from runtime.gallery import Gallery, NewEntry
from runtime.matching import Consolidator, Matcher, Neighbours, neighbours_of
from runtime.pipeline import MAX_BATCH, Pipeline, StageTimes

PEOPLE = 12


def crops(count: int, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 4, 3))
    return np.kron(coarse, np.ones((1, 8, 8, 1))).astype(np.uint8)


def enrolled(bundle: Bundle, folder: Path, patches: int) -> Gallery:
    found = Encoder(bundle, sparse=False).encode(crops(PEOPLE))
    gallery = Gallery.create(folder, bundle.binding, 64, patches)
    records = [NewEntry(f"person {number}") for number in range(PEOPLE)]
    gallery.add(records, found.cls, found.descriptor, found.patches if patches else None)
    return gallery


@pytest.fixture(scope="module")
def gallery(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gallery]:
    with enrolled(tiny_bundle, tmp_path_factory.mktemp("pipeline") / "full", 10) as gallery:
        yield gallery


def test_everyone_finds_their_own_picture_first(tiny_bundle: Bundle, gallery: Gallery) -> None:
    settings = MatchSettings(neighbours=1)
    answers = Pipeline(tiny_bundle, gallery, settings).identify(crops(PEOPLE))
    assert [answer.neighbours[0].identity for answer in answers] == [f"person {n}" for n in range(PEOPLE)]
    assert all(answer.kept.shape == (7,) and len(set(answer.kept)) == 7 for answer in answers)


def test_a_crop_that_overflows_is_unknown_and_the_others_are_not(tiny_bundle: Bundle, gallery: Gallery) -> None:
    pipeline = Pipeline(tiny_bundle, gallery, MatchSettings(neighbours=1))
    (query,) = pipeline.encode(crops(4))
    query.patches[1, 2, 3] = np.inf
    query.descriptor[2] = 0
    answers = pipeline.match(query)
    assert [answer.identity for answer in answers] == ["person 0", None, None, "person 3"]
    assert answers[1].status == "unknown"
    assert np.isnan(answers[1].similarity)
    assert answers[1].neighbours == ()
    assert np.array_equal(answers[1].kept, query.kept[1])  # type: ignore[index]


def test_a_gallery_that_becomes_empty_knows_nobody_until_somebody_is_added(
    tiny_bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with enrolled(tiny_bundle, tmp_path / "g", 10) as gallery:
        pipeline = Pipeline(tiny_bundle, gallery, MatchSettings(neighbours=1))
        gallery.remove(entries=range(1, PEOPLE + 1))
        for _ in range(2):
            assert [answer.identity for answer in pipeline.identify(crops(3))] == [None] * 3
        assert caplog.text.count("nobody is known until somebody is added") == 1
        found = Encoder(tiny_bundle, sparse=False).encode(crops(1))
        gallery.add([NewEntry("ann")], found.cls, found.descriptor, found.patches)
        assert pipeline.identify(crops(1))[0].identity == "ann"


def test_splitting_a_batch_changes_nothing(tiny_bundle: Bundle, gallery: Gallery) -> None:
    pipeline = Pipeline(tiny_bundle, gallery)
    many = np.concatenate([crops(PEOPLE), crops(PEOPLE, seed=1)])
    assert len(many) > MAX_BATCH
    together = pipeline.identify(many)
    alone = [pipeline.identify(crop[None])[0] for crop in many]
    assert [a.identity for a in together] == [a.identity for a in alone]
    np.testing.assert_allclose([a.similarity for a in together], [a.similarity for a in alone], atol=1e-5)


def test_distance_is_the_stated_mix(tiny_bundle: Bundle, gallery: Gallery) -> None:
    """Distances at alpha 0.4 lie between those at 0 and 1, entry by entry, at the stated share."""
    query = crops(3, seed=2)
    by_alpha = {}
    for alpha in (0.0, 0.4, 1.0):
        answers = Pipeline(tiny_bundle, gallery, MatchSettings(alpha=alpha, neighbours=PEOPLE)).identify(query)
        by_alpha[alpha] = [{near.entry: near.distance for near in answer.neighbours} for answer in answers]
    for cosine, mixed, emd in zip(by_alpha[0.0], by_alpha[0.4], by_alpha[1.0], strict=True):
        for entry, distance in mixed.items():
            assert distance == pytest.approx(0.6 * cosine[entry] + 0.4 * emd[entry], abs=1e-5)


def test_a_cls_only_gallery_has_no_emd_and_consolidates_from_cls(
    tiny_bundle: Bundle, gallery: Gallery, tmp_path: Path
) -> None:
    with enrolled(tiny_bundle, tmp_path / "cls", 0) as small:
        cls_only = Pipeline(tiny_bundle, small).identify(crops(2, seed=3))
    cosine_only = Pipeline(tiny_bundle, gallery, MatchSettings(alpha=0)).identify(crops(2, seed=3))
    for mine, theirs in zip(cls_only, cosine_only, strict=True):
        assert [n.identity for n in mine.neighbours] == [n.identity for n in theirs.neighbours]
        assert mine.similarity != theirs.similarity  # other tokens, another descriptor


def test_the_first_search_goes_by_the_cosine_that_was_asked_for(tiny_bundle: Bundle, gallery: Gallery) -> None:
    query = crops(4, seed=5)
    encoded = Encoder(tiny_bundle, sparse=True).encode(query)
    found = {}
    for name, expected in (
        ("cls", gallery.search(encoded.cls, 3)),
        ("descriptor", gallery.rank(encoded.descriptor, 3)),
    ):
        settings = MatchSettings(alpha=0, neighbours=3, search_by=name)  # type: ignore[arg-type]
        answers = Pipeline(tiny_bundle, gallery, settings).identify(query)
        found[name] = [[near.entry for near in answer.neighbours] for answer in answers]
        assert found[name] == expected.entries.tolist()
    assert found["cls"] != found["descriptor"]


def test_a_second_pass_starts_from_the_rebuilt_descriptor(tiny_bundle: Bundle, gallery: Gallery) -> None:
    query, settings = crops(4, seed=6), MatchSettings(neighbours=3)
    encoded = Encoder(tiny_bundle, sparse=True).encode(query)
    matcher, consolidator = Matcher(tiny_bundle, settings), Consolidator(tiny_bundle)
    candidates = matcher.candidates(encoded, gallery)
    once = consolidator.consolidate(encoded, matcher.refine(encoded, candidates.entries, candidates.cosine, gallery))
    again = gallery.rank(once, 3)
    twice = consolidator.consolidate(encoded, neighbours_of(again, gallery))

    answers = Pipeline(tiny_bundle, gallery, MatchSettings(neighbours=3, passes=2)).identify(query)

    assert [[near.entry for near in answer.neighbours] for answer in answers] == again.entries.tolist()
    np.testing.assert_allclose(
        [answer.similarity for answer in answers], gallery.rank(twice, 1).cosine[:, 0], atol=1e-5
    )


def test_a_neighbour_of_half_the_weight_counts_as_half(tiny_bundle: Bundle, gallery: Gallery) -> None:
    """The same neighbour twice at weight 1/2 is that neighbour once."""
    encoded = Encoder(tiny_bundle, sparse=True).encode(crops(1, seed=7))
    temperature = 0.1
    half = 0.2 + temperature * np.log(2)
    triple, pair = np.array([[3, 8, 8]]), np.array([[3, 8]])
    weighted = Neighbours(triple, np.array([[0.2, half, half]], np.float32), gallery.stored(triple.ravel()))
    alike = Neighbours(pair, np.full((1, 2), 0.2, np.float32), gallery.stored(pair.ravel()))

    found = Consolidator(tiny_bundle, temperature=temperature).consolidate(encoded, weighted)
    expected = Consolidator(tiny_bundle).consolidate(encoded, alike)

    np.testing.assert_allclose(found, expected, atol=2e-5)
    unweighted = Consolidator(tiny_bundle).consolidate(encoded, weighted)
    assert np.abs(unweighted - expected).max() > 1e-3


def test_a_neighbour_without_weight_is_left_out(tiny_bundle: Bundle, gallery: Gallery) -> None:
    encoded = Encoder(tiny_bundle, sparse=True).encode(crops(1, seed=7))
    pair = np.array([[3, 8]])
    far = Neighbours(pair, np.array([[0.1, 1.9]], np.float32), gallery.stored(pair.ravel()))
    alone = Neighbours(pair[:, :1], np.array([[0.1]], np.float32), gallery.stored(pair[0, :1]))

    found = Consolidator(tiny_bundle, temperature=0.05).consolidate(encoded, far)

    np.testing.assert_allclose(found, Consolidator(tiny_bundle).consolidate(encoded, alone), atol=2e-5)


def test_min_similarity_makes_strangers(tiny_bundle: Bundle, gallery: Gallery) -> None:
    answer = Pipeline(tiny_bundle, gallery).identify(crops(1))[0]
    for least, status in ((answer.similarity - 0.01, "known"), (min(1.0, answer.similarity + 0.01), "unknown")):
        found = Pipeline(tiny_bundle, gallery, MatchSettings(min_similarity=least)).identify(crops(1))[0]
        assert (found.status, found.identity is None) == (status, status == "unknown")


def test_own_similarity_is_of_the_crop_itself_and_makes_strangers(tiny_bundle: Bundle, gallery: Gallery) -> None:
    pipeline = Pipeline(tiny_bundle, gallery)
    (answer,) = pipeline.identify(crops(1))
    own = Encoder(tiny_bundle, sparse=True).encode(crops(1)).descriptor
    ranked = gallery.rank(own, PEOPLE)  # every person has one entry here
    named = [gallery.entries([entry])[0].identity for entry in ranked.entries[0].tolist()]
    expected = ranked.cosine[0, named.index(answer.identity or "")]
    assert answer.own_similarity == pytest.approx(expected, abs=1e-5)
    assert answer.own_similarity != answer.similarity

    above = min(1.0, answer.own_similarity + 0.01)
    for least, status in ((answer.own_similarity - 0.01, "known"), (above, "unknown")):
        found = Pipeline(tiny_bundle, gallery, MatchSettings(min_own_similarity=least)).identify(crops(1))[0]
        assert (found.status, found.identity is None) == (status, status == "unknown")


def test_fewer_entries_than_neighbours_is_said(
    tiny_bundle: Bundle, gallery: Gallery, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        answers = Pipeline(tiny_bundle, gallery, MatchSettings(neighbours=50)).identify(crops(1))
    assert len(answers[0].neighbours) == PEOPLE
    assert "12 entries, 50 neighbours were asked for" in caplog.text


def test_an_unknown_camera_is_said_once(
    tiny_bundle: Bundle, gallery: Gallery, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = Pipeline(tiny_bundle, gallery)
    with caplog.at_level(logging.INFO):
        unknown = [pipeline.identify(crops(1), "roof")[0] for _ in range(3)]
        known = pipeline.identify(crops(1), "till")[0]
    assert caplog.text.count("'roof'") == 1
    assert "'till'" not in caplog.text
    assert unknown[0].similarity == pipeline.identify(crops(1))[0].similarity
    assert known.similarity != unknown[0].similarity


def test_stage_times_are_added_up(tiny_bundle: Bundle, gallery: Gallery) -> None:
    times = StageTimes()
    Pipeline(tiny_bundle, gallery).identify(crops(2), times=times)
    assert list(times.ms) == ["encode", "search", "emd", "decode", "rank"]
    assert all(value > 0 for value in times.ms.values())


def test_a_damaged_entry_is_left_out_and_the_camera_goes_on(
    tiny_bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    enrolled(tiny_bundle, tmp_path / "g", 10).close()
    tokens = next((tmp_path / "g").glob("tokens-*.bin"))
    content = bytearray(tokens.read_bytes())
    content[100] ^= 0xFF  # in the tokens of the first entry
    tokens.write_bytes(content)
    with Gallery.open(tmp_path / "g", tiny_bundle.binding) as gallery:
        pipeline = Pipeline(tiny_bundle, gallery, MatchSettings(neighbours=PEOPLE))
        answers = [pipeline.identify(crops(1))[0] for _ in range(2)]
    assert caplog.text.count("matching once more: entry 1 is damaged") == 1
    assert all({near.entry for near in answer.neighbours} == set(range(2, PEOPLE + 1)) for answer in answers)


def test_no_crops_no_answers(tiny_bundle: Bundle, gallery: Gallery) -> None:
    assert Pipeline(tiny_bundle, gallery).identify(crops(1)[:0]) == []


def test_wrong_crops_and_settings_are_refused(tiny_bundle: Bundle, gallery: Gallery, tmp_path: Path) -> None:
    pipeline = Pipeline(tiny_bundle, gallery)
    with pytest.raises(EngineError, match=r"float32 \(1, 64, 32, 3\), the encoder takes uint8"):
        pipeline.identify(crops(1).astype(np.float32))
    with pytest.raises(EngineError, match=r"takes uint8 \(B, 64, 32, 3\)"):
        pipeline.identify(crops(1)[:, :32])
    with pytest.raises(BundleError, match=r"sinkhorn_iterations is 5 .* export again"):
        Pipeline(tiny_bundle, gallery, MatchSettings(sinkhorn_iterations=9))
    with (
        Gallery.create(tmp_path / "empty", tiny_bundle.binding, 64, 10) as empty,
        pytest.raises(GalleryError, match="is empty"),
    ):
        Pipeline(tiny_bundle, empty)
