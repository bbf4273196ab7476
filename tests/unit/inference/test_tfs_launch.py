"""What a TensorFlow Serving server starts with: files in its own text format, and requests that warm it up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from inference.savedmodel import export_mlp
from inference.tfserving import tensors, wire
from inference.tfserving.launch import (
    LaunchSettings,
    batching_text,
    command_line,
    model_config_text,
    monitoring_text,
    write_files,
)
from inference.tfserving.predict import encode_predict
from inference.tfserving.served import Served
from inference.tfserving.warmup import FILE, WarmupError, crc32c, masked_crc32c, records_in, warmup_file

MODELS = {"risk": Served("/models/risk", (1, 2), {"stable": 1, "canary": 2}), "new": Served("/models/new")}


def test_the_model_file_reads_back_to_what_was_remembered() -> None:
    config = text_format.Parse(model_config_text(MODELS), wire.ModelServerConfig()).model_config_list.config
    by_name = {one.name: one for one in config}
    assert dict(by_name["risk"].version_labels) == {"stable": 1, "canary": 2}
    assert list(by_name["risk"].model_version_policy.specific.versions) == [1, 2]
    assert by_name["new"].model_version_policy.latest.num_versions == 1
    assert {one.model_platform for one in config} == {"tensorflow"}


def test_batches_are_of_32_and_wait_100_ms_unless_told_otherwise() -> None:
    assert batching_text(LaunchSettings()) == "max_batch_size { value: 32 }\nbatch_timeout_micros { value: 100000 }\n"
    said = batching_text(LaunchSettings(batch_size=8, batch_timeout_ms=5, batch_threads=2, queued_batches=50))
    assert said.splitlines()[1:] == [
        "batch_timeout_micros { value: 5000 }",
        "num_batch_threads { value: 2 }",
        "max_enqueued_batches { value: 50 }",
    ]


def test_metrics_are_for_prometheus() -> None:
    assert monitoring_text().split() == [
        "prometheus_config",
        "{",
        "enable:",
        "true",
        "path:",
        '"/monitoring/prometheus/metrics"',
        "}",
    ]


def test_the_command_names_every_file_that_is_written(tmp_path: Path) -> None:
    write_files(tmp_path / "out", MODELS, LaunchSettings())
    command = command_line(LaunchSettings(port=9000), tmp_path / "out")
    for file in (tmp_path / "out").iterdir():
        assert f"={file}" in command
    assert "--port=9000" in command
    assert "--model_config_file_poll_wait_seconds=0" in command, "reloads are the gateway's alone"


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"\x00" * 32, 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
    ],
)
def test_the_checksum_is_castagnoli_s(data: bytes, crc: int) -> None:
    """RFC 3720, appendix B.4, and the polynomial's usual check value."""
    assert crc32c(data) == crc
    assert masked_crc32c(data) == (((crc >> 15) | (crc << 17 & 0xFFFFFFFF)) + 0xA282EAD8) & 0xFFFFFFFF


def test_warm_up_requests_are_read_back_as_they_were_written() -> None:
    requests = [encode_predict("risk", {"x": np.full((1, 2), number, np.float32)}) for number in range(3)]
    logs = [wire.parse(wire.PredictionLog, record) for record in records_in(warmup_file(requests))]
    assert [log.predict_log.request.SerializeToString() for log in logs] == [
        wire.parse(wire.PredictRequest, request).SerializeToString() for request in requests
    ]


@pytest.mark.parametrize("at", [0, 9, 13, 30])
def test_a_damaged_record_is_found(at: int) -> None:
    content = bytearray(warmup_file([encode_predict("risk", {"x": np.zeros((1, 2), np.float32)})]))
    content[at] ^= 1
    with pytest.raises(WarmupError):
        list(records_in(bytes(content)))


def test_a_file_that_ends_too_soon_is_found() -> None:
    with pytest.raises(WarmupError):
        list(records_in(warmup_file([b"one"])[:-1]))


def test_more_than_a_server_would_replay_is_refused() -> None:
    with pytest.raises(WarmupError, match="1001"):
        warmup_file([b""] * 1001)


def test_a_model_is_written_with_its_warm_up_in_one_step(tmp_path: Path) -> None:
    rows = np.array([[1, 2], [3, 4]], np.float32)
    made = export_mlp(
        tmp_path / "1", [(np.eye(2), np.zeros(2))], feature_names=["a", "b"], class_names=["n", "y"], warmup_rows=rows
    )
    logs = [wire.parse(wire.PredictionLog, record) for record in records_in((made / FILE).read_bytes())]
    assert [tensors.read(log.predict_log.request.inputs["x"]).tolist() for log in logs] == [[[1, 2]], [[3, 4]]]
    assert [child.name for child in tmp_path.iterdir()] == ["1"]
