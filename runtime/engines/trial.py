"""Engines tried on a bundle's query encoder: how fast they are here, and whether they answer as the reference does.

All of them encode the same crops by turns, so that whatever else the machine does slows all of them, and the answers
that are timed are the answers that are compared.
"""

import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import Bundle
from runtime.engines.protocol import Array
from runtime.engines.selection import REFERENCE, open_engine
from runtime.errors import EngineError, MissingExtraError
from runtime.images import read_image, resize
from runtime.machine import usable_cores

PROBE_FOLDER = Path(__file__).parent / "probe"
DESCRIPTOR_COSINE, TOP_OVERLAP = 0.9999, 0.98
"""What an engine must keep of the reference's answers: the bounds of `calibration.gate` for FP16, which takes float32's
place as silently as an engine does."""
TOP = 10
LEAST_CROPS = 12
"""Crops without which nothing is said of an engine's answers."""
BUDGET_S = 4.0
"""After this nothing new is begun; what is loaded by then still encodes `LEAST_CROPS`."""
FAST_ENOUGH_MS = 5.0
"""Below this nothing but the reference is tried: reading and cutting a crop takes about as long."""
CLEAR_GAIN = 0.95
"""Share of the reference's time that another engine may take at most to be worth a change."""
HOPELESS = 1.3
"""An engine that is this many times slower than the best after five turns is tried no further."""
NO_TIME = "there was no time to try it"
_EARLY_TURNS = 5


@dataclass(frozen=True)
class Agreement:
    """How far an engine's answers are from the reference's.

    Attributes:
        crops: that both encoded.
        descriptor_cosine: mean cosine of the descriptors of a crop.
        top: mean share of the nearest other crops that both name; ten, or half of them where they are few.
    """

    crops: int
    descriptor_cosine: float
    top: float

    @property
    def holds(self) -> bool:
        """Whether the engine may stand in for the reference."""
        enough = self.crops >= LEAST_CROPS
        return enough and self.descriptor_cosine >= DESCRIPTOR_COSINE and self.top >= TOP_OVERLAP  # NaN fails

    def __str__(self) -> str:
        return (
            f"descriptor cosine {self.descriptor_cosine:.5f} (at least {DESCRIPTOR_COSINE}), top-{TOP} overlap "
            f"{self.top:.3f} (at least {TOP_OVERLAP}) on {self.crops} crops (at least {LEAST_CROPS})"
        )


@dataclass
class Runner:
    """A query encoder in one engine, and what it said and took.

    Attributes:
        engine: its name.
        threads: of one run.
        seconds: of each run but the first.
        descriptors: of the crops, in their order, (D,) each.
    """

    bundle: Bundle
    engine: str
    threads: int
    seconds: list[float] = field(default_factory=list)
    descriptors: list[Array] = field(default_factory=list)

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

    def run(self, crop: NDArray[np.uint8]) -> None:
        """Encode one (H, W, 3) uint8 crop."""
        start = time.perf_counter()
        answer = self._engine.run({"crops": crop[None], "camera": self._camera})
        self.seconds.append(time.perf_counter() - start)
        self.descriptors.append(answer["descriptor"][0])


@dataclass(frozen=True)
class Trial:
    """What was tried.

    Attributes:
        engine: the one to use.
        threads: of one of its runs.
        milliseconds: {"onnxruntime x2": median of a crop} of all that ran.
        refused: {engine: why it is not used although it is faster, or cannot be used}.
        complete: False if time ran out, as on a machine that is busy with other things: another trial may end otherwise.
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
    deadline = time.monotonic() + BUDGET_S
    crops = probe_crops(bundle)
    most = threads or usable_cores()
    reference = Runner(bundle, REFERENCE, most)
    reference.warm_up(crops[0])
    _take_turns([reference], crops[:_EARLY_TURNS], deadline, least=1)
    runners, refused = [reference], dict[str, str]()
    if reference.milliseconds > FAST_ENOUGH_MS:
        reference.seconds.clear()
        reference.descriptors.clear()
        others, refused = _open_others(bundle, most, crops[0], deadline)
        runners += others
        _take_turns(runners, crops, deadline, least=LEAST_CROPS if others else 1)
    chosen = _fastest(runners, refused)
    taken = {runner.label: runner.milliseconds for runner in runners}
    del runners
    if threads is None:
        chosen = _with_fewer_threads(chosen, crops[:_EARLY_TURNS], taken, deadline)
    return Trial(chosen.engine, chosen.threads, taken, refused, complete=NO_TIME not in refused.values())


def compare_engine(bundle: Bundle, engine: str, threads: int | None = None) -> Agreement:
    """Compare the answers of an engine with the reference's on all crops.

    Raises:
        EngineError, MissingExtraError: the engine cannot run here.
    """
    pair = [Runner(bundle, name, threads or usable_cores()) for name in (REFERENCE, engine)]
    for crop in probe_crops(bundle):
        for runner in pair:
            runner.run(crop)
    return agreement(pair[1].descriptors, pair[0].descriptors)


def agreement(found: Sequence[Array], reference: Sequence[Array]) -> Agreement:
    """Compare descriptors of the same crops, as far as both go."""
    count = min(len(found), len(reference))
    mine, theirs = (_unit(np.stack(side[:count])) for side in (found, reference))
    top = min(TOP, max(1, (count - 1) // 2))  # of few crops the ten nearest would be all of them
    near, near_reference = (_nearest(side, top) for side in (mine, theirs))
    shared = [np.isin(a, b).mean() for a, b in zip(near, near_reference, strict=True)]
    return Agreement(count, float((mine * theirs).sum(axis=1).mean()), float(np.mean(shared)))


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
    if built_engines(bundle):
        found += [name for name in ("tensorrt", "tensorrt-rtx") if any(name in file for file in built_engines(bundle))]
    return found


def built_engines(bundle: Bundle) -> list[str]:
    """Return the names of the TensorRT engines that lie beside the graphs of `bundle`."""
    from runtime.engines.engine_file import FOLDER

    folder = bundle.folder / FOLDER
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _open_others(
    bundle: Bundle, threads: int, crop: NDArray[np.uint8], deadline: float
) -> tuple[list[Runner], dict[str, str]]:
    opened, refused = list[Runner](), dict[str, str]()
    for engine in installed_engines(bundle):
        if time.monotonic() > deadline:
            refused[engine] = NO_TIME
            continue
        try:
            runner = Runner(bundle, engine, threads)
            runner.warm_up(crop)
            opened.append(runner)
        except (EngineError, MissingExtraError) as error:
            refused[engine] = str(error)
    return opened, refused


def _take_turns(runners: Sequence[Runner], crops: Sequence[NDArray[np.uint8]], deadline: float, least: int) -> None:
    """Let each runner encode the crops.

    Those that cannot win any more stop early, and all stop after the deadline, but not before `least` crops.
    """
    active = list(runners)
    for turn, crop in enumerate(crops):
        if turn >= least and time.monotonic() > deadline:
            break
        if turn == _EARLY_TURNS:
            best = min(runner.milliseconds for runner in active)
            active = [runner for runner in active if runner.milliseconds <= HOPELESS * best or runner is runners[0]]
            if len(active) == 1:
                break
        for runner in active:
            runner.run(crop)


def _fastest(runners: Sequence[Runner], refused: dict[str, str]) -> Runner:
    """Return the fastest runner whose answers hold; `refused` learns of those that were faster."""
    reference = runners[0]
    for runner in sorted(runners[1:], key=lambda one: one.milliseconds):
        if runner.milliseconds > CLEAR_GAIN * reference.milliseconds:
            break
        found = agreement(runner.descriptors, reference.descriptors)
        if found.holds:
            return runner
        refused[runner.engine] = f"it moves the answers: {found}"
    return reference


def _with_fewer_threads(
    chosen: Runner, crops: Sequence[NDArray[np.uint8]], taken: dict[str, float], deadline: float
) -> Runner:
    """Halve the threads for as long as that costs no time: they are of use to other stages."""
    while chosen.threads > 1 and time.monotonic() < deadline:
        fewer = Runner(chosen.bundle, chosen.engine, chosen.threads // 2)
        fewer.warm_up(crops[0])
        chosen.seconds.clear()
        for crop in crops:
            for runner in (chosen, fewer):
                runner.run(crop)
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
