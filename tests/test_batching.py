"""Many requests in few calls of a model: who asked gets the answer, whatever happens to the others."""

import asyncio
import gc
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.batching import Batcher, Full
from helpers.classifier import Answers


class Doubling:
    """A classifier whose logits are twice the first pixel, and that takes as long as a test wants."""

    def __init__(self, seconds=0.0):
        self.calls, self.threads, self.seconds, self.fails = [], set(), seconds, False

    def answer(self, images):
        self.calls.append(len(images))
        self.threads.add(threading.current_thread())
        time.sleep(self.seconds)
        if self.fails:
            raise ValueError("the model is ill")
        first = images[:, 0, 0, 0].astype(np.float32)
        return Answers(np.array([f"is {value:.0f}" for value in first]), first[:, None], 2 * first[:, None])


class Held(Doubling):
    """One that answers once it may."""

    def __init__(self):
        super().__init__()
        self.may = threading.Event()

    def answer(self, images):
        self.calls.append(len(images))
        assert self.may.wait(20), "nobody lets it answer"
        return super().answer(images)


def picture(value, count=1):
    return np.full((count, 2, 2, 1), value, np.uint8)


def test_every_request_gets_its_own_answer():
    model = Doubling(0.002)

    async def ask():
        batcher = Batcher(model, largest=16)
        return await asyncio.gather(*(batcher.answer(picture(value, 1 + value % 3)) for value in range(200)))

    for value, answers in enumerate(asyncio.run(ask())):
        assert answers.labels.tolist() == [f"is {value}"] * (1 + value % 3)
        assert answers.logits.ravel().tolist() == [2 * value] * (1 + value % 3)
    assert sum(model.calls) == sum(1 + value % 3 for value in range(200))


def test_what_waits_is_answered_by_one_call_and_no_call_is_larger_than_the_largest():
    model, seen = Doubling(0.005), []

    async def ask():
        batcher = Batcher(model, largest=8, observe=seen.append)
        await asyncio.gather(*(batcher.answer(picture(1)) for _ in range(41)))

    asyncio.run(ask())
    assert model.calls == [8, 8, 8, 8, 8, 1]
    assert seen == model.calls


@settings(max_examples=30)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=25), st.integers(1, 8))
def test_calls_are_as_large_as_order_and_the_largest_allow(sizes, largest):
    model, seen = Doubling(), []

    async def ask():
        batcher = Batcher(model, largest=largest, observe=seen.append)
        return await asyncio.gather(*(batcher.answer(picture(value, size)) for value, size in enumerate(sizes)))

    found = asyncio.run(ask())
    assert [one.labels.tolist() for one in found] == [[f"is {value}"] * size for value, size in enumerate(sizes)]
    calls = []
    for size in sizes:
        if calls and calls[-1] + size <= largest:
            calls[-1] += size
        else:
            calls.append(size)
    assert model.calls == seen == calls


def test_an_idle_model_answers_at_once_and_alone():
    model = Doubling()

    async def ask():
        batcher = Batcher(model)
        for _ in range(3):
            await batcher.answer(picture(1))

    asyncio.run(ask())
    assert model.calls == [1, 1, 1]


def test_a_largest_batch_of_one_leaves_each_request_by_itself_and_whole():
    model = Doubling()

    async def ask():
        batcher = Batcher(model, largest=1)
        await asyncio.gather(batcher.answer(picture(1, 5)), batcher.answer(picture(2)), batcher.answer(picture(3)))

    asyncio.run(ask())
    assert model.calls == [5, 1, 1]


def test_requests_are_answered_in_the_order_in_which_they_came():
    order = []

    async def ask():
        batcher = Batcher(Doubling(0.001), largest=4)

        async def one(number):
            await batcher.answer(picture(number))
            order.append(number)

        await asyncio.gather(*map(one, range(30)))

    asyncio.run(ask())
    assert order == list(range(30))


def test_more_pictures_than_may_wait_are_turned_away_and_the_others_answered():
    async def ask():
        batcher = Batcher(Doubling(0.01), largest=4, waiting=10)
        first = asyncio.gather(*(batcher.answer(picture(number)) for number in range(10)))
        await asyncio.sleep(0)
        with pytest.raises(Full):
            await batcher.answer(picture(0, 20))
        answers = await first
        return answers, await batcher.answer(picture(9, 10))

    answers, after = asyncio.run(ask())
    assert [one.labels[0] for one in answers] == [f"is {number}" for number in range(10)]
    assert len(after.labels) == 10


@pytest.mark.parametrize("busy", [False, True])
def test_a_request_larger_than_what_may_wait_is_answered_if_no_other_waits(busy):
    async def ask():
        batcher = Batcher(Doubling(0.05), largest=4, waiting=10)
        first = [asyncio.create_task(batcher.answer(picture(1)))] if busy else []
        await asyncio.sleep(0.01)  # the model has taken it
        return len((await batcher.answer(picture(2, 20))).labels), await asyncio.gather(*first)

    assert asyncio.run(ask())[0] == 20


def test_pictures_that_the_model_has_already_taken_do_not_wait():
    async def ask():
        model = Held()
        batcher = Batcher(model, largest=4, waiting=4)
        first = asyncio.create_task(batcher.answer(picture(1, 4)))
        while not model.calls:
            await asyncio.sleep(0.005)
        second = asyncio.create_task(batcher.answer(picture(2, 4)))
        await asyncio.sleep(0)
        with pytest.raises(Full, match="4 pictures are waiting"):
            await batcher.answer(picture(3))
        model.may.set()
        return await asyncio.gather(first, second)

    assert [len(answers.labels) for answers in asyncio.run(ask())] == [4, 4]


def test_an_error_of_the_model_reaches_all_whom_it_concerns_and_the_next_are_answered():
    model = Doubling(0.005)

    async def ask():
        batcher = Batcher(model, largest=8)
        model.fails = True
        failed = await asyncio.gather(*(batcher.answer(picture(1)) for _ in range(12)), return_exceptions=True)
        model.fails = False
        return failed, await batcher.answer(picture(3))

    failed, after = asyncio.run(ask())
    assert [str(error) for error in failed] == ["the model is ill"] * 12
    assert after.labels.tolist() == ["is 3"]


def test_whoever_leaves_disturbs_nobody():
    async def ask():
        batcher = Batcher(Doubling(0.01), largest=8)
        tasks = [asyncio.create_task(batcher.answer(picture(number))) for number in range(20)]
        await asyncio.sleep(0.002)
        for number in (0, 3, 19):
            tasks[number].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    for number, found in enumerate(asyncio.run(ask())):
        if number in (0, 3, 19):
            assert isinstance(found, asyncio.CancelledError)
        else:
            assert found.labels.tolist() == [f"is {number}"]


def test_whoever_leaves_before_an_error_disturbs_nobody_either():
    model = Doubling(0.1)

    async def ask():
        batcher = Batcher(model, largest=8)
        model.fails = True
        tasks = [asyncio.create_task(batcher.answer(picture(number))) for number in range(4)]
        await asyncio.sleep(0.002)
        tasks[0].cancel()
        gone, *failed = await asyncio.gather(*tasks, return_exceptions=True)
        model.fails = False
        return gone, failed, await asyncio.wait_for(batcher.answer(picture(9)), 5)

    gone, failed, after = asyncio.run(ask())
    assert isinstance(gone, asyncio.CancelledError)
    assert [str(error) for error in failed] == ["the model is ill"] * 3
    assert after.labels.tolist() == ["is 9"]


def test_when_all_have_left_the_next_is_answered():
    model = Doubling(0.01)

    async def ask():
        batcher = Batcher(model, largest=2, waiting=6)
        tasks = [asyncio.create_task(batcher.answer(picture(number))) for number in range(6)]
        await asyncio.sleep(0.002)
        for task in tasks:
            task.cancel()
        await batcher.drain()
        return await asyncio.gather(*(batcher.answer(picture(number)) for number in range(6)))

    assert [answers.labels[0] for answers in asyncio.run(ask())] == [f"is {number}" for number in range(6)]


def test_pictures_that_cannot_be_put_together_are_an_error_and_not_the_end():
    async def ask():
        batcher = Batcher(Doubling())
        both = [batcher.answer(picture(1)), batcher.answer(np.zeros((1, 3, 3, 1), np.uint8))]
        failed = await asyncio.wait_for(asyncio.gather(*both, return_exceptions=True), 5)
        return failed, await asyncio.wait_for(batcher.answer(picture(3)), 5)

    failed, after = asyncio.run(ask())
    assert [type(error) for error in failed] == [ValueError, ValueError]
    assert after.labels.tolist() == ["is 3"]


def test_an_observer_that_fails_is_an_error_and_not_the_end():
    seen = []

    def observe(pictures):
        seen.append(pictures)
        if len(seen) == 1:
            raise OSError("no room for metrics")

    async def ask():
        batcher = Batcher(Doubling(), observe=observe)
        with pytest.raises(OSError, match="no room for metrics"):
            await asyncio.wait_for(batcher.answer(picture(1)), 5)
        return await asyncio.wait_for(batcher.answer(picture(3)), 5)

    assert asyncio.run(ask()).labels.tolist() == ["is 3"]
    assert seen == [1, 1]


def test_the_loop_turns_on_while_the_model_works():
    async def ask():
        model = Held()
        task = asyncio.create_task(Batcher(model).answer(picture(1)))
        for _ in range(8):  # a loop that stands still would not come to the end of this
            await asyncio.sleep(0.005)
        assert not task.done()
        model.may.set()
        return await task

    assert asyncio.run(ask()).labels.tolist() == ["is 1"]


def test_drain_waits_for_all_that_was_asked_and_the_thread_goes_with_the_batcher(until):
    model = Doubling(0.03)

    async def ask():
        batcher = Batcher(model, largest=2)
        tasks = [asyncio.create_task(batcher.answer(picture(1))) for _ in range(9)]
        await asyncio.sleep(0)
        await batcher.drain()
        await asyncio.sleep(0)
        return [task.done() for task in tasks]

    assert asyncio.run(ask()) == [True] * 9
    assert sum(model.calls) == 9
    assert [thread.name.startswith("model") for thread in model.threads] == [True]
    gc.collect()
    until(lambda: not any(thread.is_alive() for thread in model.threads))
