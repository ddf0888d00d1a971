"""Engines tried on a bundle's query encoder: how fast they are here, and whether they answer as the reference does.

All of them encode the same crops by turns, so that whatever else the machine does slows all of them, and the answers
that are timed are the answers that are compared.
"""

import contextlib
import importlib.util
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import Bundle
from runtime.engines.protocol import Array
from runtime.engines.selection import MOVING, ON_CPU, REFERENCE, open_engine
from runtime.errors import EngineError, MissingExtraError
from runtime.images import read_image, resize
from runtime.machine import usable_cores

PROBE_FOLDER = Path(__file__).parent / "probe"
DESCRIPTOR_COSINE, TOP_OVERLAP = 0.9999, 0.98
"""What an engine must keep of the reference's answers: the bounds of `calibration.gate` for FP16, which takes float32's
place as silently as an engine does."""
TOP = 10
LOOSEST_COSINE = 0.999
"""In a bundle of lower precision an engine may move descriptors as far as that precision did, but no further than this:
rounding in another order moves a graph of bytes more than one of float32, and no answer is the right one."""
LEAST_CROPS = 12
"""Crops without which nothing is said of an engine's answers."""
BUDGET_S = 4.0
"""After this only what a decision needs is still done: engines tried on `LEAST_CROPS`, threads left as they are."""
PATIENCE_S = 12.0
"""After this no further engine is tried: a slow or a busy machine."""
FAST_ENOUGH_MS = 5.0
"""Below this nothing but the reference is tried: reading and cutting a crop takes about as long."""
CLEAR_GAIN = 0.95
"""Share of the reference's time that another engine may take at most to be worth a change."""
HOPELESS = 1.3
"""An engine that is this many times slower than the other after three turns is tried no further."""
NO_TIME = "there was no time to try it"
_EARLY_TURNS = 3


@dataclass(frozen=True)
class Agreement:
    """How far an engine's answers are from the reference's.

    Attributes:
        crops: that both encoded.
        descriptor_cosine: mean cosine of the descriptors of a crop.
        top: mean share of the nearest other crops that both name; ten, or half of them where they are few.
        least_cosine: that `descriptor_cosine` must reach.
    """

    crops: int
    descriptor_cosine: float
    top: float
    least_cosine: float = DESCRIPTOR_COSINE

    @property
    def holds(self) -> bool:
        """Whether the engine may stand in for the reference."""
        enough = self.crops >= LEAST_CROPS
        return enough and self.descriptor_cosine >= self.least_cosine and self.top >= TOP_OVERLAP  # NaN fails

    def __str__(self) -> str:
        return (
            f"descriptor cosine {self.descriptor_cosine:.5f} (at least {self.least_cosine:.6g}), top-{TOP} overlap "
            f"{self.top:.3f} (at least {TOP_OVERLAP}) on {self.crops} crops (at least {LEAST_CROPS})"
        )


@dataclass
class Runner:
    """A query encoder in one engine, and what it said and took.

    Attributes:
        engine: its name.
        threads: of one run.
        seconds: of each run but the first.
        descriptors: {number of a crop: (D,)}.
    """

    bundle: Bundle
    engine: str
    threads: int
    seconds: list[float] = field(default_factory=list)
    descriptors: dict[int, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._engine = open_engine(self.bundle.graph_path("query_encoder"), self.engine, self.threads)
        self._camera = np.array([self.bundle.manifest.cameras.unknown], np.int64)

    @property
    def label(self) -> str:
        """`onnxruntime x2`: engine and threads."""
        return f"{self.engine} x{self.threads}"

    @property
    def milliseconds(self) -> float:
        """Median time of a crop."""
        return 1e3 * float(np.median(self.seconds))

    def warm_up(self, crop: NDArray[np.uint8]) -> None:
        """Run once without counting: engines allocate and compile at their first run."""
        self._engine.run({"crops": crop[None], "camera": self._camera})

    def run(self, number: int, crop: NDArray[np.uint8]) -> None:
        """Encode one (H, W, 3) uint8 crop."""
        start = time.perf_counter()
        answer = self._engine.run({"crops": crop[None], "camera": self._camera})
        self.seconds.append(time.perf_counter() - start)
        self.descriptors[number] = answer["descriptor"][0]


@dataclass(frozen=True)
class Trial:
    """What was tried.

    Attributes:
        engine: the one to use.
        threads: of one of its runs.
        milliseconds: {"onnxruntime x2": median of a crop} of all that ran.
        refused: {engine: why it is not used although it is faster, or cannot be used}.
        complete: False if time ran out, as on a machine that is busy: another trial may end otherwise.
    """

    engine: str
    threads: int
    milliseconds: dict[str, float]
    refused: dict[str, str]
    complete: bool


def try_engines(bundle: Bundle, threads: int | None = None) -> Trial:
    """Find the fastest engine whose answers hold, and how many threads it needs.

    Args:
        bundle: whose query encoder runs, a crop at a time.
        threads: to run with; None tries all cores first, then fewer.
    """
    start = time.monotonic()
    crops = probe_crops(bundle)
    reference = Runner(bundle, REFERENCE, threads or usable_cores())
    reference.warm_up(crops[0])
    _take_turns([reference], crops[:_EARLY_TURNS])
    if reference.milliseconds > FAST_ENOUGH_MS:
        chosen, taken, refused = _try_others(reference, crops, start)
    else:
        chosen, taken, refused = reference, {}, {}
    taken = {reference.label: reference.milliseconds, **taken}
    if threads is None and chosen.engine in ON_CPU and time.monotonic() - start < BUDGET_S:
        chosen = _with_fewer_threads(chosen, crops[: 2 * _EARLY_TURNS], taken)
    return Trial(chosen.engine, chosen.threads, taken, refused, complete=NO_TIME not in refused.values())


def compare_engine(bundle: Bundle, engine: str, threads: int | None = None) -> Agreement:
    """Compare the answers of an engine with the reference's on all crops.

    Raises:
        EngineError, MissingExtraError: the engine cannot run here.
    """
    pair = [Runner(bundle, name, threads or usable_cores()) for name in (REFERENCE, engine)]
    _take_turns(pair, probe_crops(bundle), to_the_end=True)
    return agreement(pair[1].descriptors, pair[0].descriptors, least_cosine(bundle))


def least_cosine(bundle: Bundle) -> float:
    """Return the mean cosine with the reference's descriptors that an engine must reach on `bundle`."""
    measured = bundle.manifest.descriptor_cosine
    return DESCRIPTOR_COSINE if measured is None else min(DESCRIPTOR_COSINE, max(LOOSEST_COSINE, measured))


def agreement(
    found: Mapping[int, Array], reference: Mapping[int, Array], least: float = DESCRIPTOR_COSINE
) -> Agreement:
    """Compare the descriptors of those crops that both encoded; their mean cosine is to be `least`."""
    both = sorted(found.keys() & reference.keys())
    count = len(both)
    mine, theirs = (_unit(np.stack([side[number] for number in both])) for side in (found, reference))
    top = min(TOP, max(1, (count - 1) // 2))  # of few crops the ten nearest would be all of them
    near, near_reference = (_nearest(side, top) for side in (mine, theirs))
    shared = [np.isin(a, b).mean() for a, b in zip(near, near_reference, strict=True)]
    return Agreement(count, float((mine * theirs).sum(axis=1).mean()), float(np.mean(shared)), least)


def probe_crops(bundle: Bundle) -> list[NDArray[np.uint8]]:
    """Return the rendered crops that come with the runtime, of the bundle's size."""
    size = bundle.manifest.preprocessing
    return [resize(read_image(path), size.height, size.width) for path in sorted(PROBE_FOLDER.glob("*.jpg"))]


def installed_engines(bundle: Bundle) -> list[str]:
    """Return the engines beside the reference that may run `bundle` here, cheapest to find out about first."""
    found = []
    if importlib.util.find_spec("openvino") is not None:
        found += ["openvino-bf16", "openvino"]
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        found.append("onnxruntime-cuda")
    return found + sorted(_built_providers(bundle))


def built_engines(bundle: Bundle) -> list[str]:
    """Return the names of the TensorRT engines that lie beside the graphs of `bundle`."""
    from runtime.engines.engine_file import FOLDER

    folder = bundle.folder / FOLDER
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _built_providers(bundle: Bundle) -> set[str]:
    """`tensorrt` or `tensorrt-rtx`, where engines of theirs lie beside the graphs, for whatever device."""
    from runtime.engines.engine_file import FOLDER, SUFFIX, read_header

    found = set()
    for path in (bundle.folder / FOLDER).glob(f"*{SUFFIX}"):
        with contextlib.suppress(EngineError):
            found.add(read_header(path).identity.provider)
    return found


def _try_others(
    reference: Runner, crops: Sequence[NDArray[np.uint8]], start: float
) -> tuple[Runner, dict[str, float], dict[str, str]]:
    """Return the fastest runner whose answers hold, what each took, and why some are not used."""
    best, taken, refused = reference, dict[str, float](), dict[str, str]()
    for engine in installed_engines(reference.bundle):
        if engine == MOVING.get(best.engine):
            continue  # the same engine in fewer bits is faster, and its answers hold
        if time.monotonic() - start > PATIENCE_S:
            refused[engine] = NO_TIME
            continue
        try:
            runner = Runner(reference.bundle, engine, reference.threads)
            runner.warm_up(crops[0])
            _take_turns([reference, runner], crops, start + BUDGET_S)
        except (EngineError, MissingExtraError) as error:
            refused[engine] = str(error)
            continue
        taken[runner.label] = runner.milliseconds
        if runner.milliseconds > CLEAR_GAIN * min(reference.milliseconds, best.milliseconds):
            continue
        found = agreement(runner.descriptors, reference.descriptors, least_cosine(reference.bundle))
        if found.holds:
            best = runner
        else:
            refused[engine] = f"it moves the answers: {found}"
    return best, taken, refused


def _take_turns(
    runners: Sequence[Runner],
    crops: Sequence[NDArray[np.uint8]],
    deadline: float = math.inf,
    *,
    to_the_end: bool = False,
) -> None:
    """Let each runner encode the crops.

    Unless it is to the end, they stop when the last of them has no hope left, and after the deadline, but then not
    before `LEAST_CROPS`.
    """
    for number, crop in enumerate(crops):
        if number >= LEAST_CROPS and time.monotonic() > deadline:
            break
        hopeless = number == _EARLY_TURNS and runners[-1].milliseconds > HOPELESS * runners[0].milliseconds
        if hopeless and not to_the_end:
            break
        for runner in runners:
            runner.run(number, crop)


def _with_fewer_threads(chosen: Runner, crops: Sequence[NDArray[np.uint8]], taken: dict[str, float]) -> Runner:
    """Halve the threads for as long as that costs no time: they are of use to other stages."""
    while chosen.threads > 1:
        fewer = Runner(chosen.bundle, chosen.engine, chosen.threads // 2)
        fewer.warm_up(crops[0])
        chosen.seconds.clear()
        _take_turns([chosen, fewer], crops)
        taken[fewer.label] = fewer.milliseconds
        if fewer.milliseconds > chosen.milliseconds / CLEAR_GAIN:
            break
        chosen = fewer
    return chosen


def _nearest(unit: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    return np.argsort(-cosine, axis=1, kind="stable")[:, :count]


def _unit(vectors: Array) -> NDArray[np.float64]:
    wide: NDArray[np.float64] = vectors.astype(np.float64)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12))
