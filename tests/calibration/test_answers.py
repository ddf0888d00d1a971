"""What the gate scores is what the pipeline would answer."""

import numpy as np
import pytest

from calibration.answers import Answers, CropGallery
from runtime.bundle import Bundle, MatchSettings
from runtime.encoder import Encoder
from runtime.pipeline import Pipeline
from tests.calibration.conftest import smooth

QUERIES, GALLERY = smooth(6, 1), smooth(24, 2)


@pytest.mark.parametrize(
    "settings",
    [
        MatchSettings(),
        MatchSettings(alpha=0, neighbours=3),
        MatchSettings(search_by="descriptor", neighbour_temperature=0.1, passes=2),
    ],
    ids=["published", "cosine", "rebuilt twice"],
)
def test_the_best_score_is_the_pipeline_s_similarity(tiny_bundle: Bundle, settings: MatchSettings) -> None:
    bundle = Bundle(tiny_bundle.folder, tiny_bundle.manifest.model_copy(update={"matching": settings}))
    answers = Answers(bundle, QUERIES, GALLERY)
    gallery = CropGallery(Encoder(bundle, sparse=False, engine="onnxruntime").encode(GALLERY))
    found = Pipeline(bundle, gallery, engine="onnxruntime").identify(QUERIES)
    assert answers.scores.max(axis=1) == pytest.approx([one.similarity for one in found], abs=1e-5)
    assert np.ptp(answers.scores) > 1e-3
