"""After remove and compact, nothing of a removed person is left in any file of the gallery."""

from pathlib import Path

from runtime.gallery import Gallery
from tests.runtime.gallery.synthetic import add, create, identity_of, images, reopen

VICTIM = range(20, 24)


def traces(folder: Path) -> dict[str, str]:
    """Which file holds what of the victim."""
    batch = images(VICTIM)
    wanted = {"identity": identity_of(20).encode(), "folder": b"person-5/"}
    for i, record in enumerate(batch.records):
        wanted |= {f"source {i}": record.source.encode(), f"hash {i}": record.content_hash.encode()}
        for name, array in (("cls", batch.cls), ("descriptor", batch.descriptor), ("tokens", batch.patches)):
            content = array[i].tobytes()
            for at in range(0, len(content) - 16, 16):  # any piece of it, not the whole record alone
                wanted[f"{name} {i} at {at}"] = content[at : at + 16]
        unit = batch.cls[i] / (batch.cls[i] ** 2).sum() ** 0.5
        wanted[f"unit cls {i}"] = unit[:4].tobytes()
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {what: name for name, content in files.items() for what, piece in wanted.items() if piece in content}


def erase(gallery: Gallery) -> None:
    assert gallery.remove(identity=identity_of(20), reason=f"{identity_of(20)} asked for it") != ()
    gallery.compact()


def test_nothing_is_left_while_the_gallery_is_open_with_a_reader_at_it(tmp_path: Path) -> None:
    with create(tmp_path / "g", range(60)) as gallery, reopen(tmp_path / "g") as reader:
        gallery.verify()
        assert set(traces(tmp_path / "g")) >= {
            "identity",
            "source 0",
            "cls 0 at 0",
            "tokens 3 at 0",
            "descriptor 2 at 16",
        }
        reader.search(images([1]).cls, 5)
        erase(gallery)
        assert traces(tmp_path / "g") == {}
        reader.refresh()
        assert traces(tmp_path / "g") == {}
    assert traces(tmp_path / "g") == {}


def test_nothing_is_left_after_reopening_and_going_on(tmp_path: Path) -> None:
    create(tmp_path / "g", range(60)).close()
    with reopen(tmp_path / "g", writable=True) as gallery:
        erase(gallery)
        add(gallery, range(100, 130))
    assert traces(tmp_path / "g") == {}


def test_last_entries_of_a_gallery_leave_too(tmp_path: Path) -> None:
    with create(tmp_path / "g", VICTIM) as gallery:
        erase(gallery)
        assert traces(tmp_path / "g") == {}
        assert not list((tmp_path / "g").glob("*.bin"))
