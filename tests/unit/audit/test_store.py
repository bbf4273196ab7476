from __future__ import annotations

from pathlib import Path

from audit.store.sqlite import SqliteStore

FULL = 2  # what SQLite answers for synchronous=FULL


def test_every_connection_syncs_at_each_commit_and_reads_beside_the_writer(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "ledger.sqlite", busy_s=1.0)
    store.lock()
    store.open()
    for attach in (lambda: None, lambda: store.reopen("io_error")):
        attach()
        assert store._attached().execute("PRAGMA synchronous").fetchone() == (FULL,)
        assert store._attached().execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()
