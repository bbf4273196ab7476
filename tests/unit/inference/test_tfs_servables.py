"""Which version answers: policies, labels and replaced configurations, as TF Serving has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.savedmodel import export_mlp
from inference.tfserving import answers, wire
from inference.tfserving.servables import Code, Servables, ServingError
from inference.tfserving.settings import EmbeddedServerSettings
from inference.tfserving.wire import State

METHODS = wire.METHODS


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for version in (1, 2, 3):
        publish(tmp_path / "risk", version)
    return tmp_path / "risk"


def publish(base: Path, version: int) -> None:
    export_mlp(base / str(version), [(np.eye(2), np.zeros(2))], feature_names=["a", "b"], class_names=["n", "y"])


def spec(name: str = "risk", version: int | None = None, label: str = "") -> Any:
    made = wire.ModelSpec(name=name, version_label=label) if label else wire.ModelSpec(name=name)
    if version is not None:
        made.version.value = version
    return made


def config(base: Path, *versions: int, **labels: int) -> Any:
    made = wire.ReloadConfigRequest().config.model_config_list.config.add(name=base.name, base_path=str(base))
    made.model_version_policy.specific.versions.extend(versions)
    for label, version in labels.items():
        made.version_labels[label] = version
    return made


def serving(*configs: Any) -> Servables:
    servables = Servables()
    servables.replace(configs)
    return servables


def available(servables: Servables) -> list[int]:
    return [one.number for one in servables.status(spec()) if one.state is State.AVAILABLE]


def test_without_a_policy_the_latest_version_is_served_and_newer_ones_replace_it(base: Path) -> None:
    servables = Servables()
    servables.serve_latest({"risk": base})
    assert available(servables) == [3]
    publish(base, 10)
    servables.refresh()
    assert available(servables) == [10]


def test_policies_choose_the_versions(base: Path) -> None:
    two, every = config(base), config(base)
    two.model_version_policy.latest.num_versions = 2
    every.model_version_policy.all.SetInParent()
    assert available(serving(two)) == [3, 2]
    assert available(serving(every)) == [3, 2, 1]
    assert available(serving(config(base, 1, 3, 9))) == [3, 1]


def test_a_request_without_a_choice_gets_the_newest_that_is_available(base: Path) -> None:
    servables = serving(config(base, 1, 2, stable=1))
    assert servables.find(spec()).number == servables.find(spec(version=0)).number == 2
    assert servables.find(spec(version=1)).number == servables.find(spec(label="stable")).number == 1


def test_a_label_moves_only_onto_a_version_that_is_available_already(base: Path) -> None:
    servables = serving(config(base, 1, stable=1))
    with pytest.raises(ServingError, match="assign label to version 2 of model risk") as caught:
        servables.replace([config(base, 1, 2, stable=2)])
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert (available(servables), servables.find(spec(label="stable")).number) == ([1], 1)
    servables.replace([config(base, 1, 2, stable=1)])
    servables.replace([config(base, 1, 2, stable=2)])
    assert servables.find(spec(label="stable")).number == 2


def test_a_labelled_version_cannot_be_dropped_in_the_same_breath(base: Path) -> None:
    servables = serving(config(base, 1, 2, stable=1))
    with pytest.raises(ServingError, match="version 1"):
        servables.replace([config(base, 2, stable=1)])
    assert available(servables) == [2, 1]


def test_a_new_model_may_come_with_labels_on_what_it_loads(base: Path, tmp_path: Path) -> None:
    servables = serving(config(base, 1))
    publish(tmp_path / "fraud", 7)
    with pytest.raises(ServingError):
        servables.replace([config(base, 1), config(tmp_path / "fraud", 7, stable=8)])
    servables.replace([config(base, 1), config(tmp_path / "fraud", 7, stable=7)])
    assert servables.find(spec("fraud", label="stable")).number == 7


def test_a_model_that_is_left_out_is_gone(base: Path) -> None:
    servables = serving(config(base, 1))
    servables.replace([])
    with pytest.raises(ServingError, match=r"Latest\(risk\)") as caught:
        servables.find(spec())
    assert caught.value.code is Code.NOT_FOUND


def test_a_version_that_cannot_load_is_told_and_the_others_serve_on(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (base / "4").mkdir()
    (base / "4" / "saved_model.pb").write_bytes(b"\xff")
    servables = serving(config(base, 3, 4))
    newest = servables.status(spec())[0]
    assert (newest.number, newest.state, bool(newest.error)) == (4, State.END, True)
    assert caplog.messages == [f"version not loaded: {base / '4'}: {newest.error}"]
    assert servables.find(spec()).number == 3
    with pytest.raises(ServingError, match=r"Specific\(risk, 4\)"):
        servables.find(spec(version=4))


def half_copied(base: Path, version: int) -> bytes:
    """What ``cp`` has written so far of a version; returns the whole file."""
    publish(base, version)
    file = base / str(version) / "saved_model.pb"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    return whole


def test_a_newest_version_that_cannot_load_takes_nobodys_place(base: Path) -> None:
    servables = Servables()
    servables.serve_latest({"risk": base})
    half_copied(base, 4)
    servables.refresh()
    assert available(servables) == [3]
    assert {one.number: one.state for one in servables.status(spec())}[4] is State.END


def test_a_version_that_was_seen_half_copied_is_loaded_when_it_is_whole(base: Path) -> None:
    servables = Servables()
    servables.serve_latest({"risk": base})
    whole = half_copied(base, 4)
    servables.refresh()
    (base / "4/saved_model.pb").write_bytes(whole)
    servables.refresh()
    assert available(servables) == [4]


def test_a_folder_whose_name_is_no_version_a_message_can_carry_is_none(base: Path) -> None:
    publish(base, 2**63)
    servables = Servables()
    servables.serve_latest({"risk": base})
    asked = wire.GetModelStatusRequest(model_spec=spec())
    assert [one.version for one in answers.status(servables, asked).model_version_status] == [3]


def test_a_loaded_version_is_kept_and_not_read_again(base: Path) -> None:
    servables = serving(config(base, 1))
    before = servables.find(spec()).model
    servables.replace([config(base, 1, 2)])
    assert servables.find(spec(version=1)).model is before


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (spec(""), Code.INVALID_ARGUMENT),
        (spec("nope"), Code.NOT_FOUND),
        (spec(version=9), Code.NOT_FOUND),
        (spec(label="zz"), Code.INVALID_ARGUMENT),
    ],
    ids=["no name", "unknown", "no such version", "no such label"],
)
def test_what_is_not_served_is_refused_with_tf_serving_s_code(base: Path, asked: Any, code: Code) -> None:
    with pytest.raises(ServingError) as caught:
        serving(config(base, 1)).find(asked)
    assert caught.value.code is code
    if asked.name:
        with pytest.raises(ServingError):
            serving(config(base, 1)).status(asked)


def test_a_configuration_that_makes_no_sense_is_told_inside_the_answer(base: Path) -> None:
    servables = serving(config(base, 1))
    twice, custom = wire.ReloadConfigRequest(), wire.ReloadConfigRequest()
    twice.config.model_config_list.config.extend([config(base, 1), config(base, 2)])
    custom.config.custom_model_config.type_url = "x"
    for request in (twice, custom, wire.ReloadConfigRequest()):
        body = answers.answer(servables, METHODS[wire.RELOAD], request.SerializeToString())
        assert wire.parse(wire.ReloadConfigResponse, body).status.error_code == Code.INVALID_ARGUMENT
    assert available(servables) == [1]


@pytest.mark.parametrize(
    ("operation", "signature"), [("Classify", "regress"), ("Regress", "classify"), ("Classify", "zz")]
)
def test_a_signature_of_another_method_is_refused(base: Path, operation: str, signature: str) -> None:
    request = METHODS[operation].request()
    request.model_spec.name, request.model_spec.signature_name = "risk", signature
    with pytest.raises(ServingError, match=r"Expected|No signature") as caught:
        answers.answer(serving(config(base, 1)), METHODS[operation], request.SerializeToString())
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(("rows", "is_answered"), [(1_000, True), (10_000_000, False)])
def test_a_few_bytes_do_not_make_the_server_run_millions_of_rows(base: Path, rows: int, *, is_answered: bool) -> None:
    request = wire.PredictRequest(model_spec=spec())
    tensor = request.inputs["x"]
    tensor.dtype = 1
    for size in (rows, 2):
        tensor.tensor_shape.dim.add().size = size
    tensor.float_val.append(1.0)
    servables = serving(config(base, 1))
    if is_answered:
        assert answers.predict(servables, request).outputs["probabilities"].tensor_shape.dim[0].size == rows
        return
    with pytest.raises(ServingError, match="repetitions of the last one"):
        answers.predict(servables, request)


def test_no_example_at_all_is_refused(base: Path) -> None:
    request = wire.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "risk", "classify"
    with pytest.raises(ServingError, match="Input is empty"):
        answers.answer(serving(config(base, 1)), METHODS["Classify"], request.SerializeToString())


def test_a_foreign_metadata_field_is_refused(base: Path) -> None:
    servables = serving(config(base, 1))
    request = wire.GetModelMetadataRequest(metadata_field=["weights"])
    request.model_spec.name = "risk"
    with pytest.raises(ServingError, match="Metadata field weights is not supported"):
        answers.answer(servables, METHODS["GetModelMetadata"], request.SerializeToString())


def test_a_base_folder_serves_each_model_in_it(base: Path) -> None:
    (base.parent / "notes").mkdir()
    settings = EmbeddedServerSettings(base=base.parent, models={"extra": base})
    assert settings.all_models() == {"risk": base, "extra": base}
    assert EmbeddedServerSettings(base=base / "nowhere").all_models() == {}
