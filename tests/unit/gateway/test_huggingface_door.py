"""The catalogue in the hub's words: whom it shows what, and whose the shared path is."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from controlplane.calls import Principal
from controlplane.gateway.doors.huggingface import (
    HubList,
    HubModel,
    HubPaths,
    answers,
    described,
    model_index,
    pipeline_of,
    questions_in,
    tags_of,
)
from controlplane.gateway.problems import BadRequest, Problem
from controlplane.policy import Catalogue, ModelEntry

SAID = {"task": "chat", "backend": "b", "sensitivity": 1, "side_effect": "read", "cost_tier": "low", "owner": "acme"}
CARD = {
    "languages": ["nb"],
    "licence": "Apache-2.0",
    "tags": ["law"],
    "modalities": ["text"],
    "quality": [
        {"dataset": "NorQuAD 1.0", "metric": "f1", "value": 0.81, "n": 472, "measured_on": "2026-11-01"},
        {"dataset": "own questions", "metric": "accuracy", "value": 0.9},
    ],
    "latency": {"p50_ms": 75.0, "measured_on": "2 cores"},
}


def entry(**changes: Any) -> ModelEntry:
    return ModelEntry.model_validate({"name": "tiny", **SAID, "card": CARD, **changes})


MODELS = {"tiny": entry(), "huge": entry(name="huge")}


@pytest.mark.parametrize(
    ("query", "is_shown"),
    [
        ("", True),
        ("filter=text-generation", True),
        ("filter=chat&filter=nb", True),
        ("filter=chat&filter=en", False),
        ("filter=license:apache-2.0", True),
        ("pipeline_tag=text-generation", True),
        ("author=acme", True),
        ("author=globex", False),
        ("search=TIN", True),
        ("search=huge", False),
        ("gated=false&apps=x", True),
    ],
)
def test_a_list_is_narrowed_down_as_the_hub_does(query: str, is_shown: bool) -> None:
    assert answers(entry(), questions_in(query)) is is_shown


@pytest.mark.parametrize(("limit", "most"), [("7", 7), ("0012", 12), ("1001", 1000), ("9" * 5000, 1000)])
def test_a_limit_is_at_most_what_a_page_holds(limit: str, most: int) -> None:
    assert questions_in(f"limit={limit}")["limit"] == most


@pytest.mark.parametrize("limit", ["0", "000", "-1", "x", "1.5", "²"])
def test_a_limit_that_is_none_is_refused(limit: str) -> None:
    with pytest.raises(BadRequest):
        questions_in(f"limit={limit}")


@pytest.mark.parametrize(
    ("task", "modalities", "pipeline"),
    [
        ("chat", ["text"], "text-generation"),
        ("classification", ["tabular"], "tabular-classification"),
        ("classification", [], "classification"),
        ("protein-folding", ["text"], "protein-folding"),
    ],
)
def test_a_task_is_told_in_the_hubs_words(task: str, modalities: list[str], pipeline: str) -> None:
    found = entry(task=task, card={"modalities": modalities})
    assert pipeline_of(found) == pipeline
    assert {pipeline, task} <= set(tags_of(found))


def test_metrics_are_those_of_the_card_and_those_seen_in_use() -> None:
    (index,) = model_index(entry(), [("accuracy", 0.75, 40)])
    metrics = [(r["dataset"]["name"], *r["metrics"][0].values()) for r in index["results"]]
    assert metrics == [
        ("NorQuAD 1.0", "f1", 0.81, {"n": 472, "measured_on": "2026-11-01"}),
        ("own questions", "accuracy", 0.9),
        ("2 cores", "latency_p50_ms", 75.0),
        ("in use, your own calls", "accuracy", 0.75, {"n": 40}),
    ]


def test_without_measurements_no_metrics_are_claimed() -> None:
    told = described(entry(card={}), [], whole=True)
    assert "model-index" not in told
    assert "license" not in told["cardData"]


def test_adapters_are_those_of_the_launch() -> None:
    launch = {"model": "/m", "lora": {"adapters": {"b": "/b", "a": "/a"}}}
    assert described(entry(card={"launch": launch}), [], whole=True)["cardData"]["adapters"] == ["a", "b"]
    assert "adapters" not in described(entry(card={"launch": {"model": "/m"}}), [], whole=True)["cardData"]


def test_the_short_form_keeps_the_card_to_itself() -> None:
    assert not {"cardData", "model-index"} & described(entry(), [], whole=False).keys()


@pytest.mark.parametrize(
    ("path", "query", "agent", "led_to"),
    [
        ("/api/models", "", "unknown/None; hf_hub/2.4.0; python/3.11.7", "/huggingface/api/models"),
        ("/api/models", "filter=chat", "curl/8", "/huggingface/api/models"),
        ("/api/models", "", "curl/8", "/api/models"),
        ("/api/models", "after=3", "monitor", "/api/models"),
        ("/api/calls", "limit=5", "hf_hub/2.4.0", "/api/calls"),
        ("/api/models/risk", "", "hf_hub/2.4.0", "/api/models/risk"),
    ],
)
async def test_only_a_hubs_client_is_led_to_the_hubs_list(path: str, query: str, agent: str, led_to: str) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["path"])

    headers = [(b"host", b"x"), (b"user-agent", agent.encode())]
    scope = {"type": "http", "method": "GET", "path": path, "query_string": query.encode(), "headers": headers}
    await HubPaths(app)(scope, None, None)  # type: ignore[arg-type]  nothing is received or sent here
    assert seen == [led_to]
    assert scope["path"] == path


@pytest.mark.parametrize(("action", "is_shown"), [("infer", True), ("read", True), ("list", False)])
def test_a_model_is_shown_to_who_may_ask_it_or_read_about_it(action: str, is_shown: bool) -> None:
    door = HubList(lambda _, asked, path: (asked, path) == (action, "/model/tiny"), lambda: Catalogue(models=MODELS))
    shown = door._entries(Principal(subject="agent:one", tenant="acme"), ["huge", "tiny", "gone"])
    assert [one.name for one in shown] == (["tiny"] if is_shown else [])


def test_a_change_at_the_shared_path_is_the_operators() -> None:
    assert {method for method, _ in HubModel.paths} == {"GET"}


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [(404, "RepoNotFound", "no such model"), (403, None, "no such model"), (401, None, "Invalid credentials in Au")],
)
def test_refusals_are_what_its_client_makes_exceptions_of(status: int, code: str | None, message: str) -> None:
    problem = Problem(status=status, kind="denied", reason="r", detail="no such model")
    refused = HubModel(Catalogue).refusal(None, problem)  # type: ignore[arg-type]  the request is not looked at
    assert refused.status_code == status
    assert refused.headers.get("x-error-code") == code
    assert refused.headers["x-error-message"].startswith(message)


def test_a_refusal_in_other_letters_is_still_a_header() -> None:
    problem = Problem(status=403, kind="denied", reason="r", detail="nei\r\nblåbær")
    refused = HubModel(Catalogue).refusal(None, problem)  # type: ignore[arg-type]  as above
    assert refused.headers["x-error-message"] == "nei??bl?b?r"
