import sqlite3
from pathlib import Path

import numpy as np

from helpers import hostile, rehearsal

ANSWERS = [  # what is said of each attack, in the order of `hostile.attacks`
    ("1 collected", "../../up.png: leads out", "/etc/up.png: leads out", "cat/link.png: is a link"),
    ("looks like a decompression bomb",),
    ("cut short",),
    ("1 collected", "cat/huge.png: has more than the 50,000,000 pixels allowed"),
    ("1 collected", "g.png: is an SVG", "run.png: is a script", "page.png: is a PostScript", "empty.png: is empty"),
    ("1 collected", "cat/\\u202egnp.exe: is a program"),
    ("1 collected", "cat/outside.png: leads out of its folder", "dog/nothing.txt: is not a picture"),
    ("No picture in the folder none",),
    ("There is no",),
    ("returned no rows",),
    ("column label holds str",),
    ("must be one SELECT",),
    ("answered 404",),
    ("cut short",),
]


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
    for attack, answer, said in zip(attacks, answers, ANSWERS, strict=True):
        assert all(words in answer for words in said), (attack.what, answer)
        assert "\n" not in answer
        assert str(tmp_path) not in answer
    assert all(path.startswith("outputs") for path in written)
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM pictures").fetchone() == (len(table),)
    connection.close()
