"""Random life of a gallery against a plain model: a dict of the images that should be there."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runtime.gallery import Gallery
from tests.runtime.gallery.synthetic import add, create, held, identity_of, images, reopen

NUMBERS = st.integers(0, 150)


class GalleryLife(RuleBasedStateMachine):
    """Add, remove, compact, fold, reopen, crash."""

    def __init__(self) -> None:
        super().__init__()
        self.work = Path(tempfile.mkdtemp(prefix="gallery-life-"))
        self.model: set[int] = set()
        self.gallery: Gallery
        self.reader: Gallery

    @initialize(start=st.sampled_from([0, 10, 60]))
    def make(self, start: int) -> None:
        self.gallery = create(self.work / "g", range(start))
        self.reader = reopen(self.work / "g")
        self.model = set(range(start))

    @rule(numbers=st.lists(NUMBERS, min_size=1, max_size=25))
    def add(self, numbers: list[int]) -> None:
        result = add(self.gallery, numbers)
        assert len(result.added) == len(set(numbers) - self.model)
        assert len(result.duplicates) == len(numbers) - len(result.added)
        self.model |= set(numbers)

    @rule(number=NUMBERS)
    def remove_identity(self, number: int) -> None:
        gone = {k for k in self.model if identity_of(k) == identity_of(number)}
        assert len(self.gallery.remove(identity=identity_of(number))) == len(gone)
        self.model -= gone

    @rule(camera=st.integers(0, 2))
    def remove_camera(self, camera: int) -> None:
        self.gallery.remove(camera=f"camera-{camera}")
        self.model = {k for k in self.model if k % 3 != camera}

    @rule()
    def compact(self) -> None:
        self.gallery.compact()
        assert self.gallery.info().removed_not_compacted == 0

    @rule()
    def fold(self) -> None:
        self.gallery.fold()

    @rule()
    def reopen(self) -> None:
        self.gallery.close()
        self.gallery = reopen(self.work / "g", writable=True)

    @rule(half=st.booleans())
    def crash(self, half: bool) -> None:
        """The process ends without closing; files are as they are at that moment, with an addition half written."""
        copy = self.work / "crashed"
        shutil.copytree(self.work / "g", copy)
        self.reader.close()
        self.gallery.close()
        shutil.rmtree(self.work / "g")
        copy.rename(self.work / "g")
        if half:
            for path in (self.work / "g").glob("*.bin"):
                with path.open("ab") as file:
                    file.write(b"half a record")
            (self.work / "g" / "vectors-000999.bin").write_bytes(b"a segment that was never named")
        self.gallery = reopen(self.work / "g", writable=True)
        self.reader = reopen(self.work / "g")
        assert not (self.work / "g" / "vectors-000999.bin").exists()

    @invariant()
    def agrees(self) -> None:
        self.reader.refresh()
        for gallery in (self.gallery, self.reader):
            assert len(gallery) == len(self.model)
            assert held(gallery) == self.model

    @precondition(lambda self: len(self.model) > 0)
    @rule(query=st.integers(1000, 1010), count=st.integers(1, 12))
    def search(self, query: int, count: int) -> None:
        self.reader.warm_up()
        asked = images([query]).cls
        left = np.array(sorted(self.model))
        vectors = images(left).cls.astype(np.float64)
        order = np.argsort(-(vectors @ asked[0].astype(np.float64)) / np.linalg.norm(vectors, axis=1))[:count]
        found = self.reader.search(asked, count).entries[0].tolist()
        sources = [entry.source for entry in self.reader.entries(found)]
        assert sources == [record.source for record in images(left[order]).records]

    @rule()
    def verify(self) -> None:
        assert self.reader.verify(recall_queries=5).problems == ()

    def teardown(self) -> None:
        if hasattr(self, "gallery"):
            self.gallery.close()
            self.reader.close()
        shutil.rmtree(self.work)


TestGalleryLife = GalleryLife.TestCase
TestGalleryLife.settings = settings(
    max_examples=15, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
