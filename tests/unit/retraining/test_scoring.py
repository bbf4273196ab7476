from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from controlplane.retraining.scoring import ScoringFailed, classes_of, savedmodel_score
from inference.savedmodel import export_mlp
from inference.savedmodel.graph import SavedModel


@pytest.mark.parametrize(
    ("output", "classes"),
    [
        (np.array([[0.9, 0.1], [0.2, 0.8]]), [0, 1]),
        (np.array([[0.9], [0.5]]), [1, 0]),
        (np.array([0.1, 0.51]), [0, 1]),
        (np.array([3, 0]), [3, 0]),
        (np.array([[2], [1]]), [2, 1]),
    ],
)
def test_classes_are_read_from_every_usual_shape(output: np.ndarray, classes: list[int]) -> None:
    assert classes_of(output).tolist() == classes


@pytest.mark.parametrize(
    "output", [np.zeros((2, 2, 2)), np.zeros((2, 0)), np.zeros(()), np.array([b"no"], object), np.array([1j])]
)
def test_other_shapes_are_refused(output: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no classes"):
        classes_of(output)


def test_a_version_answers_as_it_would_when_served(tmp_path: Path) -> None:
    weights = np.array([[-1.0, 1.0]])
    export_mlp(tmp_path / "1", [(weights, np.zeros(2))], feature_names=["a"], class_names=["no", "yes"])
    score = savedmodel_score("x", "probabilities")
    assert score(tmp_path / "1", np.array([[2.0], [-2.0]])).tolist() == [1, 0]


def test_what_cannot_be_run_says_so(tmp_path: Path) -> None:
    export_mlp(tmp_path / "1", [(np.ones((1, 2)), np.zeros(2))], feature_names=["a"], class_names=["no", "yes"])
    (tmp_path / "2").mkdir()
    (tmp_path / "2/saved_model.pb").write_bytes(b"\xff\xff")
    rows = np.zeros((1, 1))
    for score, version in (
        (savedmodel_score("x", "probabilities"), "2"),
        (savedmodel_score("x", "probabilities"), "3"),
        (savedmodel_score("other", "probabilities"), "1"),
        (savedmodel_score("x", "other"), "1"),
        (savedmodel_score("x", "probabilities", "other"), "1"),
    ):
        with pytest.raises(ScoringFailed):
            score(tmp_path / version, rows)


def test_a_version_that_answers_other_rows_than_it_was_asked_is_not_scored(tmp_path: Path) -> None:
    export_mlp(tmp_path / "1", [(np.ones((1, 2)), np.zeros(2))], feature_names=["a"], class_names=["no", "yes"])
    file = tmp_path / "1/saved_model.pb"
    model = SavedModel.FromString(file.read_bytes())
    model.meta_graphs[0].signature_def["serving_default"].outputs["probabilities"].name = "weights_0:0"
    file.write_bytes(model.SerializeToString())
    score = savedmodel_score("x", "probabilities")
    assert score(tmp_path / "1", np.zeros((1, 1))).tolist() == [0]
    with pytest.raises(ScoringFailed, match="1 answers to 3 rows"):
        score(tmp_path / "1", np.zeros((3, 1)))
