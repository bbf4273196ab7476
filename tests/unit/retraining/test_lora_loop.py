"""An adapter is trained and kept for a person to judge: the loop cannot score it, and does not pretend to."""

from __future__ import annotations

from pathlib import Path

from controlplane.retraining.ports import Review

from .toy import TRAINING, Toy, live


async def test_one_adapter_is_trained_and_a_human_is_asked(tmp_path: Path) -> None:
    toy = Toy(tmp_path, training=TRAINING.model_copy(update={"output": "lora"}))
    toy.calls(100, turned=False)
    toy.calls(300, turned=True)
    await live(toy)
    moves = [(move["reason"], move["evidence"].get("cause")) for move in toy.gateway.ledger[2:]]
    assert moves == [
        ("retrain", None),
        ("trained", None),
        ("lost", "not_scored"),
        ("champion_kept", None),
        ("human_asked", "attempts_exhausted"),
    ]
    assert len(toy.trainer.jobs) == 1, "a second one would be no better known"
    assert "percent" not in toy.gateway.ledger[3], "no server is asked to load it"
    assert (tmp_path / "models/risk/.candidates/2/provenance.json").is_file()


async def test_a_human_may_have_another_trained(tmp_path: Path) -> None:
    toy = Toy(tmp_path, training=TRAINING.model_copy(update={"output": "lora"}))
    toy.calls(100, turned=False)
    toy.calls(300, turned=True)
    await live(toy)
    toy.gateway.said = Review("7", "retrain")
    await live(toy)
    assert [job.new_version for job in toy.trainer.jobs] == [2, 3]
