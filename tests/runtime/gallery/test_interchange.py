from pathlib import Path

import numpy as np
import pytest

from runtime.errors import GalleryError, GalleryMismatchError
from runtime.gallery import Gallery, NewEntry
from tests.runtime.gallery.synthetic import BINDING, DIMENSION, PATCHES, SMALL, add, create, held, images, reopen


def test_a_gallery_goes_out_and_comes_in_again_unchanged(tmp_path: Path) -> None:
    with create(tmp_path / "a", range(300)) as gallery:
        gallery.remove(entries=[5])
        guest = images([777])
        record = NewEntry("Zoë", "camera-1", "", "guest", expires_at=4e9)
        gallery.add([record], guest.cls, guest.descriptor, guest.patches)
        assert gallery.export_to(tmp_path / "out.npz") == 300
        dates = [gallery.entries([k])[0].added_at for k in (1, 301)]
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        assert file["patches"].shape == (300, PATCHES, DIMENSION)
        assert file["identity"][-1] == "Zoë"
        np.testing.assert_array_equal(file["cls"][:4], images(range(4)).cls)
    with create(tmp_path / "b") as other:
        assert len(other.import_from(tmp_path / "out.npz", reason="moved").added) == 300
        assert [other.entries([k])[0].added_at for k in (1, 300)] == dates
        assert other.snapshot().rows.expires[-1] == 4e9
        other.remove(entries=[300])
        assert held(other) == set(range(300)) - {4}
        again = other.import_from(tmp_path / "out.npz")
        assert (len(again.added), len(again.duplicates)) == (1, 299)
        assert other.verify().clean
        assert other.audit()[0].reason == "moved"


def test_merge(tmp_path: Path) -> None:
    with create(tmp_path / "a", range(50)) as a, create(tmp_path / "b", range(30, 90)) as b:
        result = a.merge(b)
        assert (len(result.added), len(result.duplicates)) == (40, 20)
        assert held(a) == set(range(90))
        assert a.verify().clean
        assert held(b) == set(range(30, 90))


def test_another_bundles_gallery_is_not_taken_in(tmp_path: Path) -> None:
    other = BINDING.model_copy(update={"precision": "int8"})
    with (
        Gallery.create(tmp_path / "a", other, DIMENSION, PATCHES, settings=SMALL) as a,
        create(tmp_path / "b", range(5)) as b,
    ):
        b.export_to(tmp_path / "b.npz")
        with pytest.raises(GalleryMismatchError, match="precision"):
            a.merge(b)
        with pytest.raises(GalleryMismatchError, match="precision"):
            a.import_from(tmp_path / "b.npz")


@pytest.mark.parametrize(
    "harm", ["missing", "noise", "cut", "pickle", "shape", "compressed", "encrypted", "huge", "one"]
)
def test_bad_files(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "x.npz"
    with create(tmp_path / "a", range(20)) as gallery:
        gallery.export_to(path)
        content = path.read_bytes()
        with np.load(path) as file:
            members = dict(file)
        path.unlink()
        if harm == "noise":
            path.write_bytes(b"noise" * 100)
        elif harm == "cut":
            path.write_bytes(content[: len(content) // 2])
        elif harm == "pickle":
            np.savez(path, **{**members, "identity": members["identity"].astype(object)})
        elif harm == "shape":
            np.savez(path, **{**members, "cls": members["cls"][:, :5]})
        elif harm == "compressed":
            np.savez_compressed(path, **members)
        elif harm == "encrypted":
            path.write_bytes(
                content.replace(b"PK\x03\x04\x2d\0\0\0", b"PK\x03\x04\x2d\0\1\0").replace(
                    b"PK\x01\x02\x2d\x03\x2d\0\0\0", b"PK\x01\x02\x2d\x03\x2d\0\1\0"
                )
            )
        elif harm == "huge":
            path.write_bytes(content.replace(b"(20,), }", b"(%d,), }" % 10**12, 1))
        elif harm == "one":
            np.savez(path, **{**members, "identity": np.array("Ann")})
        gallery.remove(entries=range(1, 21))
        with pytest.raises(GalleryError, match=r"x\.npz"):
            gallery.import_from(path)
        assert len(gallery) == 0
        add(gallery, [1])
    with reopen(tmp_path / "a") as gallery:
        assert held(gallery) == {1}
