import sqlite3
from pathlib import Path

import numpy as np

from helpers import hostile, rehearsal


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_every_attack_ends_in_findings_or_one_sentence_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8)
    table = rehearsal.soil(images, np.array(["cat", "dog"] * 30), np.array(["train"] * 60), each=2, seed=0)
    database = rehearsal.write_sqlite(table, tmp_path / "pets.db")
    with rehearsal.serve(tmp_path / "attacks") as server:
        attacks = hostile.attacks(tmp_path / "attacks", server.url, f"sqlite:///{database}")
        before = tree(tmp_path)
        answers = [hostile.answer(attack, hide={str(tmp_path): "…", server.url: "http://…"}) for attack in attacks]
        written = tree(tmp_path) - before
    for attack, answer in zip(attacks, answers, strict=True):
        assert all(words in answer for words in attack.says), (attack.what, answer)
        assert "\n" not in answer
        assert str(tmp_path) not in answer
    assert all(path.startswith("outputs") for path in written)
    assert [path for path in hostile.targets(tmp_path / "attacks") if path.exists()] == []
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM pictures").fetchone() == (len(table),)
    connection.close()


def test_no_attack_is_content_with_the_answer_to_a_harmless_source(tmp_path):
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (12, 8, 8), np.uint8)):
        path = tmp_path / "pets" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rehearsal.encode(pixels))
    answer = hostile.answer(hostile.Attack("no attack at all", str(tmp_path / "pets"), ()), hide={})
    assert answer == "12 collected; "
    for attack in hostile.attacks(tmp_path / "attacks", "http://127.0.0.1:1", "sqlite://"):
        assert attack.says, attack.what
        assert not any(words in answer for words in attack.says), attack.what


def test_the_targets_are_where_names_and_scripts_would_lead(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = hostile.targets(tmp_path / "one" / "two")
    assert {Path("/etc/up.png"), tmp_path / "up.png", tmp_path / "owned", tmp_path.parents[1] / "up.png"} <= set(found)
