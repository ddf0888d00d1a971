"""Which pictures a rendered data set holds, decided before any is drawn."""

from collections.abc import Iterator
from dataclasses import dataclass

from fpc_deploy.rendering.crop import Occlusion
from fpc_deploy.rendering.seeds import generator
from runtime.errors import FpcError

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
DISTRACTOR, JUNK = 0, -1
_TRAIN_OCCLUDED, _GALLERY_OCCLUDED = 0.5, 0.1
_HEAVY, _ANY, _LIGHT, _NEARLY_ALL = (0.2, 0.7), (0.1, 0.7), (0.05, 0.2), (0.75, 0.97)


@dataclass(frozen=True)
class DatasetPlan:
    """The size of a rendered data set.

    Attributes:
        identities: People in all, train and test.
        cameras: Cameras of the site; every test person passes all of them.
        seed: Decides everything; another seed gives other people and other cameras.
        train_share: Share of the people who are in the training set.
        train_images: Pictures of a training person by each camera that sees them.
        gallery_images: Gallery pictures of a test person by each camera; there is one query picture too.
        distractors: Gallery pictures of strangers (identity 0), per test person.
        junk: Gallery pictures that show next to nothing (identity -1), per test person.
        height: Rows of a picture; it has half as many columns.
        train_cameras: Cameras that see a training person, drawn for each; all of them when `None`. Many cameras that
            each see a few of the people teach a model what cameras do to colours without ever more pictures.
    """

    identities: int = 200
    cameras: int = 6
    seed: int = 0
    train_share: float = 0.5
    train_images: int = 4
    gallery_images: int = 2
    distractors: float = 0.0
    junk: float = 0.0
    height: int = 128
    train_cameras: int | None = None

    @property
    def train_identities(self) -> range:
        """Numbers of the training people, from 1."""
        count = min(max(round(self.identities * self.train_share), 0), self.identities)
        return range(1, count + 1)

    @property
    def test_identities(self) -> range:
        """Numbers of the test people; none of them is a training person."""
        return range(len(self.train_identities) + 1, self.identities + 1)

    def check(self) -> None:
        """Raise `FpcError` where the plan cannot be rendered."""
        if self.identities < 2:
            raise FpcError(f"{self.identities} identities cannot be told apart: give --identities 2 or more")
        if self.cameras < 2:
            raise FpcError(f"re-identification needs two cameras, not {self.cameras}: give --cameras 2 or more")
        if not 0 <= self.train_share <= 1:
            raise FpcError(f"--train-share {self.train_share} is not a share: give 0 to 1")
        if self.seed < 0:
            raise FpcError(f"--seed {self.seed} is negative: give 0 or more")
        if self.height < 32 or self.height % 16:
            raise FpcError(f"--height {self.height} does not fit: give a multiple of 16 from 32 on")
        if min(self.train_images, self.gallery_images) < 1 or min(self.distractors, self.junk) < 0:
            raise FpcError("image counts must be 1 or more, distractors and junk 0 or more")
        if self.train_cameras is not None and not 2 <= self.train_cameras <= self.cameras:
            raise FpcError(f"--train-cameras {self.train_cameras} does not fit: give 2 to --cameras {self.cameras}")

    def cameras_of(self, identity: int) -> list[int]:
        """Return the numbers of the cameras that see a training person, ascending."""
        every = range(1, self.cameras + 1)
        if self.train_cameras is None:
            return list(every)
        chosen = generator(self.seed, "cameras of", identity).choice(every, self.train_cameras, replace=False)
        return sorted(int(camera) for camera in chosen)


@dataclass(frozen=True)
class Picture:
    """One picture to be drawn; `number` tells apart those of one person by one camera."""

    folder: str
    identity: int
    camera: int
    number: int
    seed: int
    occlusion: Occlusion
    stranger: int = 0

    @property
    def name(self) -> str:
        """File name as in Market-1501: identity, camera and sequence, frame, box."""
        frame = self.stranger
        if not self.stranger:
            # The leading digits keep names apart; the random ones stand for the time of the picture.
            rng = generator(self.seed, "frame", *self.path)
            frame = (self.number + 1) * 10_000 + int(rng.integers(10_000))
        label = f"{self.identity:04d}" if self.identity >= 0 else "-1"
        return f"{label}_c{self.camera}s1_{frame:06d}_00.jpg"

    @property
    def path(self) -> tuple[int | str, ...]:
        """What names this picture's random generator."""
        return (self.folder, max(self.identity, 0), self.camera, self.number, self.stranger)


def pictures(plan: DatasetPlan) -> Iterator[Picture]:
    """Yield every picture of a data set, in a fixed order."""
    for identity in plan.train_identities:
        for camera in plan.cameras_of(identity):
            for number in range(plan.train_images):
                yield _picture(plan, TRAIN, identity, camera, number, _TRAIN_OCCLUDED, _ANY)
    for identity in plan.test_identities:
        for camera in range(1, plan.cameras + 1):
            yield _picture(plan, QUERY, identity, camera, 0, 1.0, _HEAVY)
            for number in range(plan.gallery_images):
                # Query and gallery pictures of one camera never share a number, and so never a name.
                yield _picture(plan, GALLERY, identity, camera, number + 1, _GALLERY_OCCLUDED, _LIGHT)
    tests = len(plan.test_identities)
    for identity, share, extent in ((DISTRACTOR, plan.distractors, None), (JUNK, plan.junk, _NEARLY_ALL)):
        for index in range(round(tests * share)):
            camera = 1 + index % plan.cameras
            occluded = 0.3 if extent is None else 1.0
            stranger = index + 1 if identity == DISTRACTOR else 50_001 + index
            yield _picture(plan, GALLERY, identity, camera, 0, occluded, extent or _HEAVY, stranger)


def _picture(
    plan: DatasetPlan,
    folder: str,
    identity: int,
    camera: int,
    number: int,
    occluded: float,
    extent: tuple[float, float],
    stranger: int = 0,
) -> Picture:
    rng = generator(plan.seed, "occlusion", folder, max(identity, 0), camera, number, stranger)
    kind = "none"
    if rng.random() < occluded:
        kind = "object" if rng.random() < 0.5 else "person"
    return Picture(folder, identity, camera, number, plan.seed, Occlusion(kind, *extent), stranger)
