"""What the catalogue decides about a vLLM server becomes exactly that on its command line."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from inference.launch import Launch, Lora, render
from inference.launch.launch import OPENS_A_DOOR


def arguments(**fields: Any) -> tuple[str, ...]:
    return render("chat", Launch(model="/weights/chat", **fields)).arguments


def test_batches_of_32_and_a_bounded_queue_unless_told_otherwise() -> None:
    said = arguments()
    assert {"--max-num-seqs=32", "--max-num-queued-reqs=256", "--scheduling-policy=priority"} <= set(said)
    assert {"--max-num-seqs=8", "--max-num-queued-reqs=2"} <= set(arguments(batch=8, queue=2))


@pytest.mark.parametrize(
    ("decision", "flag"),
    [
        ({"quantization": "fp8"}, "--quantization=fp8"),
        ({"quantization": "int8"}, "--quantization=int8_per_channel_weight_only"),
        ({"gpus": 2}, "--tensor-parallel-size=2"),
        ({"memory_share": 0.5}, "--gpu-memory-utilization=0.5"),
        ({"lazy_load": False}, "--safetensors-load-strategy=eager"),
        ({"kv_cache": "fp8"}, "--kv-cache-dtype=fp8"),
        ({"context_tokens": 4096}, "--max-model-len=4096"),
        ({"embeds": True}, "--runner=pooling"),
        ({"tool_parser": "hermes"}, "--tool-call-parser=hermes"),
        ({"more": ["--enable-chunked-prefill"]}, "--enable-chunked-prefill"),
    ],
)
def test_a_decision_is_one_flag_and_its_absence_is_none(decision: dict[str, Any], flag: str) -> None:
    assert flag in arguments(**decision)
    assert flag not in arguments()


def test_a_cpu_takes_no_share_of_a_gpu() -> None:
    rendered = render("chat", Launch(model="/m", device="cpu", kv_cache_bytes="64M"))
    assert not [flag for flag in rendered.arguments if "gpu" in flag]
    assert rendered.gpus == 0
    assert rendered.environment["OMP_NUM_THREADS"] == "1"


def test_adapters_are_named_with_their_paths_and_loaded_at_runtime_only_where_that_was_decided() -> None:
    fixed = render("chat", Launch(model="/m", lora=Lora(adapters={"b": "/b", "a": "/a"}, at_once=2)))
    listed = fixed.arguments[fixed.arguments.index("--lora-modules") :][:3]
    assert listed == ("--lora-modules", "a=/a", "b=/b")
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in fixed.environment
    moving = render("chat", Launch(model="/m", lora=Lora(adapters={"a": "/a"}, runtime=True)))
    assert moving.environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"


@pytest.mark.parametrize("flag", sorted(OPENS_A_DOOR))
@pytest.mark.parametrize("written", ["{0}", "{0}=x"])
def test_flags_that_open_a_door_are_refused(flag: str, written: str) -> None:
    with pytest.raises(ValidationError, match="is not for a catalogue"):
        Launch(model="/m", more=[written.format(flag)])


def test_an_abbreviation_does_not_smuggle_a_flag_in() -> None:
    with pytest.raises(ValidationError, match="is not for a catalogue"):
        Launch(model="/m", more=["--trust-rem"])


@pytest.mark.parametrize("flag", ["-q", "fp8", "--trust_remote_code", "--", "--a b", "; rm -rf /", "--x\n--api-key=y"])
def test_what_is_no_flag_is_refused(flag: str) -> None:
    with pytest.raises(ValidationError, match="is no flag"):
        Launch(model="/m", more=[flag])


@pytest.mark.parametrize("wrong", [{"gpus": 2, "kv_cache_bytes": "64M"}, {}])
def test_a_cpu_launch_that_cannot_start_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="on a CPU"):
        Launch(model="/m", device="cpu", **wrong)


def test_helm_values_hold_what_the_command_holds() -> None:
    rendered = render("chat", Launch(model="/weights/chat", gpus=2))
    values = rendered.helm_values("vllm")["vllm"]
    command = rendered.command("python3", "127.0.0.1", 8000)
    assert (values["model"], values["servedModel"], values["gpus"]) == ("/weights/chat", "chat", 2)
    assert command[-len(values["args"]) :] == values["args"]
    assert "--model=/weights/chat" in command
