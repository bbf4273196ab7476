"""Names of the OpenTelemetry conventions that our spans follow, pinned here because the conventions still move.

Revision: core 1.44.0 and the GenAI and MCP conventions at ``gen-ai-dev/1.42.0-dev`` (status: development; no release is
tagged). They have no names for policy decisions yet, so those stand under ``controlplane.``, in the shape of the open
proposal (semantic-conventions-genai #427): a verdict is what the rule said, an action is what was done about it.
"""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA_URL = "https://opentelemetry.io/schemas/gen-ai-dev/1.42.0-dev"

ERROR_TYPE = "error.type"
HTTP_STATUS = "http.response.status_code"

GEN_AI_OPERATION = "gen_ai.operation.name"
GEN_AI_REQUEST_MODEL = "gen_ai.request.model"
GEN_AI_RESPONSE_MODEL = "gen_ai.response.model"
GEN_AI_REQUEST_STREAM = "gen_ai.request.stream"
GEN_AI_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
GEN_AI_INPUT_TOKENS = "gen_ai.usage.input_tokens"
GEN_AI_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
GEN_AI_TOOL_NAME = "gen_ai.tool.name"
GEN_AI_TOOL_TYPE = "gen_ai.tool.type"
MCP_METHOD = "mcp.method.name"

CALL_ID = "controlplane.call.id"
TENANT = "controlplane.tenant"
DOOR = "controlplane.door"
RESOURCE = "controlplane.resource"
OUTCOME = "controlplane.outcome"
RUNG = "controlplane.fallback.rung"
LEDGER_INDEX = "controlplane.ledger.index"
POLICY_VERDICT = "controlplane.policy.verdict"
POLICY_ACTION = "controlplane.policy.action"
POLICY_REASON = "controlplane.policy.reason"
POLICY_REVISION = "controlplane.policy.revision"
POLICY_RULE = "controlplane.policy.rule.id"
POLICY_EVENT = "controlplane.policy.decision"

EXECUTE_TOOL = "execute_tool"

# Our operations that the GenAI conventions name otherwise or as they are; a predict has no name there.
GEN_AI_OPERATIONS = {
    "chat": "chat",
    "completions": "text_completion",
    "responses": "chat",
    "messages": "chat",
    "embeddings": "embeddings",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """What a span is about, in the conventions' words."""

    name: str
    attributes: dict[str, str]


def subject_of(resource: str, operation: str) -> Subject:
    """Name and attributes for a call of ``operation`` on ``resource`` (``/model/{name}``, ``/mcp/{server}/{tool}``)."""
    kind, _, rest = resource.removeprefix("/").partition("/")
    if kind == "mcp":
        return _mcp(operation, rest.partition("/")[2])
    if kind == "tool":
        attributes = {GEN_AI_OPERATION: EXECUTE_TOOL, GEN_AI_TOOL_NAME: rest, GEN_AI_TOOL_TYPE: "function"}
        return Subject(f"{EXECUTE_TOOL} {rest}", attributes)
    operation = GEN_AI_OPERATIONS.get(operation, operation)
    attributes = {GEN_AI_REQUEST_MODEL: rest}
    if operation in GEN_AI_OPERATIONS.values():
        attributes[GEN_AI_OPERATION] = operation
    return Subject(f"{operation} {rest}".strip(), attributes)


def _mcp(method: str, tool: str) -> Subject:
    attributes = {MCP_METHOD: method}
    if method == "tools/call":
        attributes |= {GEN_AI_OPERATION: EXECUTE_TOOL, GEN_AI_TOOL_NAME: tool}
    return Subject(f"{method} {tool}".strip(), attributes)
