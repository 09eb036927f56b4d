import sqlite3
from pathlib import Path

import numpy as np

from helpers import hostile, rehearsal


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_every_attack_ends_in_findings_or_one_sentence_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8)
    table = rehearsal.soil(images, np.array(["cat", "dog"] * 30), np.array(["train"] * 60), each=2, seed=0)
    database = rehearsal.write_sqlite(table, tmp_path / "pets.db")
    with rehearsal.serve(tmp_path / "attacks") as server:
        attacks = hostile.attacks(tmp_path / "attacks", server.url, f"sqlite:///{database}")
        before = tree(tmp_path)
        answers = [hostile.answer(attack, hide={str(tmp_path): "…", server.url: "http://…"}) for attack in attacks]
        written = tree(tmp_path) - before
    assert len(answers) == 14
    for attack, answer in zip(attacks, answers, strict=True):
        assert len(answer) > 20, attack
        assert "\n" not in answer
        assert str(tmp_path) not in answer
    assert "pixels allowed" in answers[3]
    assert all(path.startswith("outputs") for path in written)
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM pictures").fetchone() == (len(table),)
    connection.close()
