import pytest

from helpers import artifacts, notebooks, outcomes, plans


@pytest.fixture
def pair(project, make):
    """A root with two notebooks that have been run; both take a source, and the first alone has a size."""
    first = make.tiny("01_data", parameters='SOURCE = ""\nIMAGE_SIZE = 64', rules="SOURCE=str, IMAGE_SIZE=int")
    second = make.tiny("03_train", needs="notebook 01", parameters='SOURCE = ""', rules="SOURCE=str")
    make.write_notebooks(project, n01_data=first, n03_train=second)
    outcomes.record(outcomes.Outcome("01_data", "1", outcomes.RAN))
    return notebooks.find()


def planned(found, numbers, **given):
    chosen, values = plans.make(found, numbers, {}, given)
    return [notebook.stem for notebook in chosen], values


def test_a_source_for_a_notebook_that_has_one_does_not_run_01_anew(pair):
    assert planned(pair, ["03"], SOURCE="pets") == (["03_train"], {"03_train": {"SOURCE": "pets"}})


def test_a_size_that_01_alone_has_runs_it_anew_on_the_source_that_is_given(pair):
    values = {"01_data": {"SOURCE": "pets", "IMAGE_SIZE": 32}, "03_train": {"SOURCE": "pets"}}
    assert planned(pair, ["03"], SOURCE="pets", IMAGE_SIZE="32") == (["01_data", "03_train"], values)


def test_a_source_reaches_01_if_that_was_never_run(pair):
    artifacts.remove(artifacts.outputs())
    assert planned(pair, ["03"], SOURCE="pets")[1] == {"01_data": {"SOURCE": "pets"}, "03_train": {"SOURCE": "pets"}}
