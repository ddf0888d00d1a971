"""Token stores: what comes back, what is refused, and galleries that use them."""

import hashlib
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.errors import GalleryError
from runtime.gallery import Gallery
from runtime.gallery.catalogue import seal
from runtime.gallery.codecs import TokenCodec, make_codec, read_codec
from runtime.gallery.conversion import convert_gallery
from tests.runtime.gallery.synthetic import BINDING, DIMENSION, PATCHES, SMALL, create, images

LOW_RANK = 12


def tokens(count: int, seed: int = 0) -> NDArray[np.float32]:
    """(count, N, D) tokens near a span of 12 dimensions, of norms from 1 to 1,000."""
    rng = np.random.default_rng(seed)
    span = np.random.default_rng(99).standard_normal((LOW_RANK, DIMENSION))
    found = rng.standard_normal((count, PATCHES, LOW_RANK)) @ span
    found += 0.01 * rng.standard_normal(found.shape)
    norms = 10 ** rng.uniform(0, 3, (count, PATCHES, 1))
    return np.asarray(found / np.linalg.norm(found, axis=2, keepdims=True) * norms, np.float32)


def there_and_back(codec: TokenCodec, given: NDArray[np.float32]) -> NDArray[np.float32]:
    records = codec.encode(given)
    return codec.decode([records[row, ...] for row in range(len(records))])


@pytest.mark.parametrize(("name", "most"), [("float16", 1e-3), ("int8", 0.01), ("svd-12", 0.015)])
def test_tokens_come_back_near_to_what_they_were(name: str, most: float) -> None:
    codec, given = make_codec(name, DIMENSION, [tokens(50, seed=1)]), tokens(8)
    error = np.linalg.norm(there_and_back(codec, given) - given, axis=2) / np.linalg.norm(given, axis=2)
    assert error.max() < most


def test_a_basis_of_fewer_coordinates_than_the_tokens_need_loses_more() -> None:
    given = tokens(8)
    errors = [
        np.linalg.norm(there_and_back(make_codec(name, DIMENSION, [tokens(50, seed=1)]), given) - given)
        for name in ("svd-4", "svd-8", "svd-12")
    ]
    assert errors[0] > 2 * errors[1] > 20 * errors[2]


def test_norms_are_exact_and_zero_tokens_stay_zero() -> None:
    codec, given = make_codec("svd-12", DIMENSION, [tokens(50)]), tokens(2)
    given[0, 0] = 0
    records = codec.encode(given)
    np.testing.assert_allclose(records["norms"], np.linalg.norm(given, axis=2), rtol=1e-6)
    assert not codec.decode([records[0, ...]])[0, 0].any()


def test_one_large_coordinate_does_not_drown_the_others() -> None:
    """Transformers have a few outlying dimensions; a byte a raw number would leave the others 0."""
    given = np.random.default_rng(0).standard_normal((4, PATCHES, DIMENSION)).astype(np.float32)
    given[:, :, 3] *= 300
    found = there_and_back(make_codec("int8", DIMENSION), given)
    rest = np.delete(np.arange(DIMENSION), 3)
    assert np.corrcoef(found[..., rest].ravel(), given[..., rest].ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
    ("name", "message"),
    [("int4", "no token store 'int4': choose float16, int8 or svd-R, as in svd-16"), ("svd-33", "have 32 numbers")],
)
def test_unknown_stores_are_refused(name: str, message: str) -> None:
    with pytest.raises(GalleryError, match=message):
        make_codec(name, DIMENSION, [tokens(1)])


def test_a_basis_is_not_learned_from_nothing() -> None:
    with pytest.raises(GalleryError, match="there are none"):
        make_codec("svd-4", DIMENSION, [])


@pytest.mark.parametrize("content", [None, b"", b"\0" * 4 * DIMENSION * 4, b"\xff" * 4 * DIMENSION * 4])
def test_a_basis_that_is_none_is_refused(content: bytes | None) -> None:
    with pytest.raises(GalleryError, match="basis of its tokens is not"):
        read_codec("svd-4", DIMENSION, content)


def compact(folder: Path, numbers: range = range(40)) -> Gallery:
    """A gallery of made-up images in svd-24."""
    batch = images(numbers)
    codec = make_codec("svd-24", DIMENSION, [batch.patches])
    gallery = Gallery.create(folder, BINDING, DIMENSION, PATCHES, codec=codec, settings=SMALL)
    gallery.add(batch.records, batch.cls, batch.descriptor, batch.patches)
    return gallery


def test_a_compact_gallery_is_smaller_and_lives_like_any_other(tmp_path: Path) -> None:
    with compact(tmp_path / "g") as gallery:
        expected = gallery.tokens(np.arange(1, 41)).patches
        assert expected is not None
        late = images(range(100, 110))
        gallery.add(late.records, late.cls, late.descriptor, late.patches)
        gallery.remove(entries=range(3, 13))
        gallery.compact()
        assert gallery.info().token_bytes_per_entry == PATCHES * (24 + 8)
    with Gallery.open(tmp_path / "g", BINDING, settings=SMALL) as gallery:
        found = gallery.tokens(np.array([40, 1, 50, 20]))
        assert found.patches is not None
        np.testing.assert_array_equal(found.patches[[0, 1, 3]], expected[[39, 0, 19]])
        cosine = (found.patches[2].astype(np.float32) * late.patches[-1]).sum()
        assert cosine > 0.7 * (late.patches[-1].astype(np.float32) ** 2).sum()  # the basis never saw it
        assert gallery.verify().clean


def test_damaged_bytes_are_told_and_left_out(tmp_path: Path) -> None:
    compact(tmp_path / "g").close()
    path = tmp_path / "g" / "tokens-000001.bin"
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    with Gallery.open(tmp_path / "g", BINDING, settings=SMALL) as gallery:
        with pytest.raises(GalleryError, match="entry 1 is damaged"):
            gallery.stored(np.array([2, 1]))
        assert len(gallery) == 39


def test_a_basis_that_was_changed_lost_or_led_away_is_refused(tmp_path: Path) -> None:
    compact(tmp_path / "g").close()
    path = tmp_path / "g" / "tokens.basis"
    good = path.read_bytes()
    other = make_codec("svd-24", DIMENSION, [tokens(9)]).basis
    assert other is not None
    for bad in (other.tobytes(), good[:-1], good + b"\0"):
        path.write_bytes(bad)
        with pytest.raises(GalleryError, match=r"is damaged: its tokens cannot be read, tokens\.basis"):
            Gallery.open(tmp_path / "g", BINDING)
    path.unlink()
    with pytest.raises(GalleryError, match=r"tokens\.basis"):
        Gallery.open(tmp_path / "g", BINDING)
    (tmp_path / "elsewhere").write_bytes(good)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(GalleryError, match=r"tokens\.basis"):
        Gallery.open(tmp_path / "g", BINDING)


def test_a_basis_cannot_be_claimed_beyond_memory(tmp_path: Path) -> None:
    compact(tmp_path / "g").close()
    connection = sqlite3.connect(tmp_path / "g" / "gallery.db")
    for name, value in (("dimension", "65536"), ("tokens", "svd-65536")):
        connection.execute("UPDATE facts SET value=?, seal=? WHERE name=?", (value, seal(name, value), name))
    connection.commit()
    connection.close()
    with pytest.raises(GalleryError, match="65536 numbers can be stored as float16 only"):
        Gallery.open(tmp_path / "g", BINDING)


def test_a_gallery_made_before_there_were_codecs_opens(tmp_path: Path) -> None:
    create(tmp_path / "g", range(5)).close()
    connection = sqlite3.connect(tmp_path / "g" / "gallery.db")
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)  # and older versions open ours
    connection.execute("DELETE FROM facts WHERE name IN ('tokens', 'basis')")
    connection.commit()
    connection.close()
    with Gallery.open(tmp_path / "g", BINDING) as gallery:
        np.testing.assert_array_equal(gallery.tokens(np.array([2])).patches, images([1]).patches)


def test_conversion_keeps_entries_dates_and_hashes(tmp_path: Path) -> None:
    with create(tmp_path / "a", range(60)) as source:
        source.remove(entries=[2])
        assert convert_gallery(source, tmp_path / "b", "svd-24", settings=SMALL, reason="smaller") == 59
        assert convert_gallery(source, tmp_path / "c", "cls", settings=SMALL) == 59
        dates = [source.entries([k])[0].added_at for k in (1, 60)]
    with Gallery.open(tmp_path / "b", BINDING, settings=SMALL) as made:
        assert [made.entries([k])[0].added_at for k in (1, 59)] == dates
        assert made.holder_of("hash-00059") == (59, "Person Nr 00014")
        assert made.audit()[0].reason == "smaller"
        assert made.verify().clean
        with pytest.raises(GalleryError, match="is the gallery to be converted"):
            convert_gallery(made, tmp_path / "b", "float16", overwrite=True)
    with (
        Gallery.open(tmp_path / "c", BINDING, settings=SMALL) as small,
        pytest.raises(GalleryError, match="stores no patch tokens"),
    ):
        convert_gallery(small, tmp_path / "d", "int8")
    assert not (tmp_path / "d").exists()


def test_merging_galleries_of_one_basis_changes_no_byte(tmp_path: Path) -> None:
    with compact(tmp_path / "a") as a:
        codec = a.layout.codec
        with Gallery.create(tmp_path / "b", BINDING, DIMENSION, PATCHES, codec=codec, settings=SMALL) as b:
            b.merge(a)
            assert b.holder_of("hash-00007") == (8, "Person Nr 00001")
            mine, theirs = (one.stored(np.arange(1, 41)).records for one in (a, b))
            assert mine is not None
            assert theirs is not None
            digests = [{hashlib.sha256(record.tobytes()).digest() for record in some} for some in (mine, theirs)]
            assert digests[0] == digests[1]
            assert len(digests[0]) == 40
