"""Times, amounts and states as people read them; filters of the templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from audit.visible import visible, visible_lines

GOOD, BUSY, BAD = "good", "busy", "bad"
TONES = {
    **dict.fromkeys(("closed", "ok", "allow", "ready", "HEALTHY", "PROMOTED"), GOOD),
    **dict.fromkeys(
        ("half_open", "running", "cancelled", "LEARNING", "RETRAINING", "SHADOW", "CANARY", "WARN", "ROLLED_BACK"), BUSY
    ),
    **dict.fromkeys(
        ("open", "held", "error", "timeout", "deny", "unknown", "ejected", "isolated", "DEGRADED", "DATA_FAULT"), BAD
    ),
}
"""How a state looks; what is not listed looks like nothing in particular."""

UNITS = ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k"))


def tone(state: str) -> str:
    return TONES.get(str(state), "")


def lines(text: str) -> str:
    return "\n".join(visible_lines(text))


def clock(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%H:%M:%S")


def day(time_ms: float) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def moment(time_ms: float) -> str:
    """The time of today, with its day for any other."""
    at = datetime.fromtimestamp(time_ms / 1000, UTC)
    return at.strftime("%H:%M:%S" if at.date() == datetime.now(UTC).date() else "%b %d, %H:%M")


def span(seconds: float) -> str:
    """How long: 45 s, 15 min, 3 h, 2 d."""
    units = ((86_400, "d"), (3_600, "h"), (60, "min"))
    fitting = (one for one in units if seconds >= 1.5 * one[0] or seconds == one[0])
    size, unit = next(fitting, (1, "s"))
    count = seconds / size
    return f"{count:.0f} {unit}" if count >= 10 else f"{count:.1f}".removesuffix(".0") + f" {unit}"  # noqa: PLR2004


def fact_name(name: str) -> str:
    """`likeness_ppm` is the likeness; units stand beside the value."""
    for unit in ("_ppm", "_s"):
        name = name.removesuffix(unit)
    return name.replace("_", " ")


def fact(value: float | str, name: str) -> str:
    """A fact of a verdict with its unit, which its name ends with."""
    if isinstance(value, str):
        return value.replace("_", " ")
    if name == "began_s":
        return moment(value * 1000)
    if name.endswith("_ppm"):
        return f"{value / 1_000_000:.2f}"
    return f"{value:,} s" if name.endswith("_s") else f"{value:,}"


def milliseconds(microseconds: int) -> str:
    value = microseconds / 1000
    return f"{value:.1f} ms" if value < 100 else f"{value:,.0f} ms"  # noqa: PLR2004  three digits are enough


def short(value: float) -> str:
    """Three digits and a unit: 1.23k, 45.6M."""
    for size, unit in UNITS:
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}" if abs(value) < 1_000 * size else f"{value:.2e}"
    return f"{value:.3g}"


def usd(micro_usd: float) -> str:
    """Cents where there are dollars, more digits where there are none."""
    dollars = micro_usd / 1_000_000
    return f"${dollars:,.2f}" if abs(dollars) >= 1 or not dollars else f"${dollars:.4f}"


def percent(ratio: float) -> str:
    value = 100 * ratio
    return f"{value:.0f} %" if value >= 10 or value == int(value) else f"{value:.1f} %"  # noqa: PLR2004  two digits


def size(count: float) -> str:
    """Bytes."""
    return f"{count / 1_048_576:.1f} MiB" if count >= 1_048_576 else f"{count / 1_024:.0f} KiB"  # noqa: PLR2004


FILTERS: Mapping[str, Callable[..., Any]] = {
    "clock": clock,
    "day": day,
    "moment": moment,
    "span": span,
    "fact": fact,
    "fact_name": fact_name,
    "plain": visible,
    "lines": lines,
    "ms": milliseconds,
    "tone": tone,
    "short": short,
    "usd": usd,
    "percent": percent,
    "size": size,
}
