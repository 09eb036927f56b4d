"""Facts about the progress of long work."""

from types import SimpleNamespace

from helpers import progress


def test_where_somebody_looks_on_long_work_has_one_line(monkeypatch, capsys):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    progress.ticker()("1/2")
    assert capsys.readouterr().err == "1/2\n"
    monkeypatch.setenv("JPY_SESSION_NAME", "here")
    first, lines = [], []
    handle = SimpleNamespace(update=lambda bundle, raw: lines.append(bundle["text/plain"]))
    monkeypatch.setattr("IPython.display.display", lambda bundle, **options: first.append(options) or handle)
    tell = progress.ticker()
    tell("1/2")
    tell("2/2")
    assert (first, lines) == ([{"raw": True, "display_id": True}], ["1/2", "2/2"])
    assert capsys.readouterr().err == ""
